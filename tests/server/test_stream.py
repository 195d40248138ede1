"""A stream, put together, is the plain answer: same text, tokens, logprobs, ends and usage, however it is cut."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
from fake_engine import Answer, frames
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from small_server import BOS, END, HELLO, MODEL, NONE_PREDICTED, SPARE_ROWS, VOCAB, SmallServer, events

from quire.engine import messages as m


@dataclass(frozen=True)
class Case:
    """A request's options, what the engine says, and how it cuts it, once for the plain answer and once streamed."""

    fields: dict[str, Any]
    answers: list[Answer]
    cuts: tuple[int, int]
    prompt: Any = None

    def script(self, cut: int):
        """Each prompt's sequences say the same."""
        return lambda request: frames(request, self.answers, VOCAB, Random(cut))


# Halves of characters, special tokens, and rows that have no text; or a and b only, where stop strings nearly match.
wide = st.one_of(
    st.sampled_from([BOS, BOS + 2, *range(256, 267)]), st.integers(0, VOCAB + SPARE_ROWS - 1), st.integers(60, 75)
).filter(lambda i: i != END)
narrow = st.sampled_from([64, 65, 263, 264, 265])
letters = st.text("abhelo wrä", min_size=1, max_size=4)


@st.composite
def cases(draw: st.DrawFn, *, chat: bool) -> Case:
    n = draw(st.integers(1, 3))
    stop_id = draw(st.sampled_from([END, 66]))
    ids, stops = draw(st.sampled_from([(wide, letters), (narrow, st.text("ab", min_size=3, max_size=5))]))
    answers = []
    for _ in range(n):
        tokens = tuple(draw(st.lists(ids, max_size=12)))
        stop = draw(st.booleans()) or not tokens
        answers.append(Answer((*tokens, stop_id) if stop else tokens, stop))
    optional = {
        "stop": st.one_of(stops, st.lists(stops, max_size=5)),
        "include_stop_str_in_output": st.booleans(),
        "skip_special_tokens": st.booleans(),
        "min_tokens": st.integers(0, 4),
        "return_token_ids": st.booleans(),
        "logprobs": st.booleans() if chat else st.integers(0, 3),
    }
    if chat:
        optional["top_logprobs"] = st.integers(0, 3)
    else:
        optional.update(echo=st.booleans(), prompt_logprobs=st.integers(0, 3))
    fields = draw(st.fixed_dictionaries({"n": st.just(n), "stop_token_ids": st.just([66])}, optional=optional))
    if chat and not fields.get("logprobs"):
        fields.pop("top_logprobs", None)
    prompt = None
    if not chat:
        one = st.one_of(st.text("abä h", min_size=1, max_size=20), st.lists(ids, min_size=1, max_size=20))
        prompt = draw(st.one_of(one, st.lists(letters, min_size=1, max_size=3)))
    return Case(fields, answers, (draw(st.integers(0, 2**32)), draw(st.integers(0, 2**32))), prompt)


def both(server: SmallServer, case: Case, path: str, body: dict[str, Any]) -> tuple[dict[str, Any], list[Any], Any]:
    """(the plain answer, the chunks, the chunk of usage)"""
    server.engine.script = case.script(case.cuts[0])
    plain = server.post(path, body)
    assert plain.status_code == 200, plain.text
    server.engine.script = case.script(case.cuts[1])
    chunks = events(server.post(path, {**body, "stream": True, "stream_options": {"include_usage": True}}))
    *chunks, last = chunks
    assert last["choices"] == []
    assert not any(chunk.get("usage") for chunk in chunks)
    assert len({chunk["id"] for chunk in chunks}) == 1
    ends = [c["index"] for chunk in chunks for c in chunk["choices"] if c["finish_reason"]]
    assert sorted(ends) == list(range(len(plain.json()["choices"])))
    assert server.engine.pending == 0
    return plain.json(), chunks, last


def joined(chunks: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Choices as a client puts them together; an error where one says something after its end."""
    found: list[dict[str, Any]] = [{"text": "", "logprobs": None, "finish_reason": None} for _ in range(count)]
    for chunk in chunks:
        for choice in chunk["choices"]:
            mine = found[choice["index"]]
            assert mine["finish_reason"] is None, "news after the end"
            mine["text"] += choice["text"] if "text" in choice else choice["delta"].get("content", "")
            mine["finish_reason"] = choice["finish_reason"]
            if choice["logprobs"]:
                mine["logprobs"] = mine["logprobs"] or {}
                for key, values in choice["logprobs"].items():
                    if values is not None:
                        mine["logprobs"][key] = mine["logprobs"].get(key, []) + values
            for key in ("token_ids", "prompt_logprobs", "prompt_token_ids"):
                if key in choice:
                    mine[key] = mine.get(key, []) + choice[key]
            if "stop_reason" in choice:
                mine["stop_reason"] = choice["stop_reason"]
    return found


def as_joined(choice: dict[str, Any]) -> dict[str, Any]:
    """A choice of a plain answer in the same form."""
    logprobs = choice["logprobs"] and {k: v for k, v in choice["logprobs"].items() if v is not None}
    text = choice["text"] if "text" in choice else choice["message"]["content"]
    rest = {k: v for k, v in choice.items() if k not in ("index", "text", "message", "logprobs")}
    return {"text": text, "logprobs": logprobs, **rest}


def as_sdk(choice: dict[str, Any]) -> dict[str, Any]:
    """The SDK's type knows no open end in a chunk, and no null for the first token of an echoed prompt; clients do."""
    logprobs = dict(choice["logprobs"] or {})
    if logprobs.get("token_logprobs", [0])[:1] == [None]:
        logprobs.update({key: logprobs[key][1:] for key in ("token_logprobs", "top_logprobs")})
    return {**choice, "logprobs": logprobs or None, "finish_reason": choice["finish_reason"] or "stop"}


def expected(server: SmallServer, answer: Answer, fields: dict[str, Any]) -> str:
    """The text of an answer, told from all its tokens at once: the decoding up to the stop string that ends first."""
    tokens = list(answer.tokens)
    include = fields.get("include_stop_str_in_output", False)
    if answer.stop and not (include and tokens[-1] != END):
        tokens.pop()
    whole = server.tokenizer.decode(tokens, fields.get("skip_special_tokens", True))
    stops = fields.get("stop", [])
    stops = [stops] if isinstance(stops, str) else stops
    hits = [(whole.index(s) + len(s), whole.index(s)) for s in stops if s in whole]
    if not hits:
        return whole
    end, begin = min(hits)
    return whole[: end if include else begin]


@settings(max_examples=250, deadline=None)
@given(cases(chat=True))
def test_a_streamed_chat_is_the_plain_one(lasting_server, case):
    plain, chunks, last = both(lasting_server, case, "/v1/chat/completions", {**HELLO, **case.fields})
    ChatCompletion.model_validate(plain)
    for chunk in [*chunks, last]:
        ChatCompletionChunk.model_validate(chunk)
    assert joined(chunks, len(case.answers)) == [as_joined(c) for c in plain["choices"]]
    assert last["usage"] == plain["usage"]
    openings = [c["delta"] for chunk in chunks for c in chunk["choices"] if "role" in c["delta"]]
    assert openings == [{"role": "assistant", "content": ""}] * len(case.answers)
    assert all(c["delta"].get("role") for chunk in chunks[: len(case.answers)] for c in chunk["choices"])
    if not case.fields.get("min_tokens"):
        texts = [choice["message"]["content"] for choice in plain["choices"]]
        assert texts == [expected(lasting_server, answer, case.fields) for answer in case.answers]


@settings(max_examples=250, deadline=None)
@given(cases(chat=False))
def test_a_streamed_completion_is_the_plain_one(lasting_server, case):
    body = {"model": MODEL, "prompt": case.prompt, **case.fields}
    plain, chunks, last = both(lasting_server, case, "/v1/completions", body)
    for chunk in [plain, *chunks, last]:
        Completion.model_validate({**chunk, "choices": [as_sdk(choice) for choice in chunk["choices"]]})
    assert joined(chunks, len(plain["choices"])) == [as_joined(c) for c in plain["choices"]]
    assert last["usage"] == plain["usage"]
    for choice in plain["choices"]:
        if choice["logprobs"]:
            assert len({len(values) for values in choice["logprobs"].values()}) == 1


@settings(max_examples=50, deadline=None)
@given(case=cases(chat=True))
def test_usage_counts_every_token_up_to_the_end_and_none_after_it(lasting_server, case):
    """Without stop strings, all tokens; the prompt once, however many answers it gets."""
    case.fields.pop("stop", None)
    plain, _, _ = both(lasting_server, case, "/v1/chat/completions", {**HELLO, **case.fields})
    prompt = len(lasting_server.engine.requests[-1].prompt)
    assert plain["usage"] == {
        "prompt_tokens": prompt,
        "completion_tokens": sum(len(answer.tokens) for answer in case.answers),
        "total_tokens": prompt + sum(len(answer.tokens) for answer in case.answers),
        "prompt_tokens_details": {"cached_tokens": prompt // 16 * 16},
        "completion_tokens_details": {"reasoning_tokens": 0, "forced_tokens": 0, **NONE_PREDICTED},
    }


def test_usage_comes_in_a_chunk_of_its_own_only_when_asked_for(lasting_server):
    lasting_server.says("hello")
    silent = events(lasting_server.post("/v1/chat/completions", {**HELLO, "stream": True}))
    assert not any("usage" in chunk for chunk in silent)
    assert all(chunk["choices"] for chunk in silent)


def test_continuous_usage_grows_to_the_final_count(lasting_server):
    lasting_server.says("hello world", "ab", stop=False)
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {**HELLO, "n": 2, "stream": True, "stream_options": options}
    *chunks, last = events(lasting_server.post("/v1/chat/completions", body))
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1] == last["usage"]["completion_tokens"]
    assert chunks[-1]["usage"] == last["usage"]


def test_with_several_choices_the_first_speaks_first(lasting_server):
    """Some clients show whatever speaks first."""

    def script(request):
        yield [m.TokenDelta(id=request.id, index=1, tokens=[65, 66], finish="length")]
        yield [m.TokenDelta(id=request.id, index=0, tokens=[67, END], finish="stop")]

    lasting_server.engine.script = script
    chunks = events(lasting_server.post("/v1/chat/completions", {**HELLO, "n": 2, "stream": True}))
    assert [c["index"] for chunk in chunks for c in chunk["choices"]][:2] == [0, 1]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("failure", ["failed message", "in one frame", "broken script"])
def test_an_error_in_mid_stream_is_told_and_ends_the_stream(lasting_server, path, failure):
    def script(request):
        said = m.TokenDelta(id=request.id, index=0, tokens=list(lasting_server.ids("hello")))
        failed = m.Failed(id=request.id, code="engine_failed", message="the step failed")
        fault = m.TokenDelta(id=request.id, index=7, tokens=[65])  # no such choice: a fault of ours
        yield from {
            "failed message": [[said], [failed]],
            "in one frame": [[said, failed]],  # of a step that landed and the one behind it, or of two choices
            "broken script": [[said], [fault]],
        }[failure]

    lasting_server.engine.script = script
    body = {"model": MODEL, "prompt": "x"} if path == "/v1/completions" else HELLO
    *chunks, last = events(lasting_server.post(path, {**body, "stream": True}))
    assert "hello" in str(chunks[-1])
    assert set(last["error"]) == {"message", "type", "param", "code"}
    told = ("internal_error", "log") if failure == "broken script" else ("engine_failed", "the step failed")
    assert last["error"]["code"] == told[0]
    assert told[1] in last["error"]["message"]
    assert lasting_server.engine.pending == 0


@pytest.mark.parametrize("stream", [True, False])
def test_what_fails_before_the_first_token_is_a_plain_error(lasting_server, stream):
    refused = {"code": "overloaded", "message": "the queue is full"}
    lasting_server.engine.script = lambda request: [[m.Failed(id=request.id, **refused)]]
    response = lasting_server.post("/v1/chat/completions", {**HELLO, "stream": stream})
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) >= 1
    assert response.json()["error"]["message"] == "the queue is full"


def test_one_failed_prompt_of_several_ends_the_others(lasting_server):
    def script(request):
        if lasting_server.ids("b") == tuple(request.prompt):
            yield [m.Failed(id=request.id, code="engine_failed", message="the step failed")]
        # the others say nothing, ever

    lasting_server.engine.script = script
    lasting_server.engine.aborted.clear()
    response = lasting_server.post("/v1/completions", {"model": MODEL, "prompt": ["a", "b", "c"]})
    assert response.status_code == 500
    assert len(lasting_server.engine.aborted) == 2
    assert lasting_server.engine.pending == 0
