"""The real app over a fake engine and a small tokenizer, in this process, driven without a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
from fake_engine import Answer, FakeEngine, frames
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from quire.engine import messages as m
from quire.server.app import create_app
from quire.server.config import ServerConfig
from quire.server.prompt import Renderer
from quire.server.tokenizer import Tokenizer

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|bos|>", "<|end|>", "<|im_start|>", "<|im_end|>")
MERGES = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), ("Ġ", "w"), ("o", "r"), ("Ġw", "or"), ("a", "b"),
          ("ab", "ab"), ("b", "a"), ("Ã", "¤")]  # fmt: skip
SPARE_ROWS = 5  # ids that the model has and the tokenizer has no text for
BOS, END = 256 + len(MERGES), 257 + len(MERGES)
VOCAB = 256 + len(MERGES) + len(SPECIAL)
MODEL = "small"
HELLO = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}


def small_vocabulary(markup: tuple[str, ...] = ()) -> str:
    """tokenizer.json: byte-level BPE of all bytes, a few merges, four special tokens; ids of the bytes are the
    alphabet's order. markup: further special tokens, behind those."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {piece: i for i, piece in enumerate([*alphabet, *(a + b for a, b in MERGES)])}
    backend = Backend(models.BPE(vocab=vocab, merges=MERGES))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([*SPECIAL, *markup])
    return str(backend.to_str())


def small_tokenizer(template: str = TEMPLATE, markup: tuple[str, ...] = ()) -> Tokenizer:
    settings = {"bos_token": "<|bos|>", "eos_token": "<|end|>", "chat_template": template}
    return Tokenizer(small_vocabulary(markup), settings)


NONE_PREDICTED = {"accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0}  # of an answer's usage


class SmallServer:
    """App, engine and event loop of a test module."""

    def __init__(self, max_model_len: int = 256, template: str = TEMPLATE, markup: tuple[str, ...] = (), **config: Any):
        self.tokenizer = small_tokenizer(template, markup)
        self.engine = FakeEngine(VOCAB + len(markup) + SPARE_ROWS, max_model_len=max_model_len)
        self.app = create_app(
            ServerConfig(served_model_names=(MODEL, "team/small"), **config),
            self.engine, self.tokenizer, Renderer(self.tokenizer),
        )  # fmt: skip
        self._runner = asyncio.Runner()

    @property
    def context(self) -> Any:
        return self.app.state.quire

    def says(self, *texts: str | tuple[int, ...], stop: bool = True) -> None:
        """Each sequence i answers texts[i % len(texts)], token by token; stop: and then the end token."""
        answers = [Answer((*(self.ids(t) if isinstance(t, str) else t), *([END] if stop else [])), stop) for t in texts]

        def script(request: m.Generate):
            return frames(request, [answers[i % len(answers)] for i in range(request.n)], VOCAB)

        self.engine.script = script

    def ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def run(self, work: Callable[[], Any] | Any) -> Any:
        """Run a coroutine on this server's loop."""
        return self._runner.run(work)

    def request(self, method: str, path: str, **more: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://small", trust_env=False) as client:
                return await client.request(method, path, **more)

        response: httpx.Response = self.run(send())
        return response

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.request("GET", path, **more)

    def post(self, path: str, body: Any, **more: Any) -> httpx.Response:
        return self.request("POST", path, json=body, **more)

    def chat(self, **fields: Any) -> dict[str, Any]:
        """A plain answer."""
        response = self.post("/v1/chat/completions", {**HELLO, **fields})
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def complete(self, **fields: Any) -> dict[str, Any]:
        response = self.post("/v1/completions", {"model": MODEL, "prompt": "hello", **fields})
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics by its name with labels."""
        lines = self.get("/metrics").text.splitlines()
        return {name: float(value) for name, value in (x.rsplit(" ", 1) for x in lines if x and x[0] != "#")}

    def close(self) -> None:
        self._runner.close()


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """The chunks of a stream, after a look at its frame: only data events, [DONE] once and last."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = response.text.split("\n\n")
    assert blocks.pop() == ""
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    assert [i for i, block in enumerate(blocks) if block == "data: [DONE]"] == [len(blocks) - 1]
    return [json.loads(block.removeprefix("data: ")) for block in blocks[:-1]]


def error_of(response: httpx.Response, status: int | None = 400) -> dict[str, Any]:
    """The error of a response, after a look at its shape."""
    body = response.json()
    assert list(body) == ["error"], body
    error: dict[str, Any] = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert 0 < len(error["message"]) < 2100
    assert isinstance(error["type"], str)
    assert error["param"] is None or isinstance(error["param"], str)
    if status is not None:
        assert response.status_code == status, body
    return error


def named(error: dict[str, Any], field: str) -> None:
    """An error says which field it is about."""
    assert field in (error["param"], (error["param"] or "").replace("[", ".").split(".")[0]), error
    assert field in error["message"]


class Caller:
    """One request on the ASGI level, whose client may leave at any time."""

    def __init__(self, app: Any, path: str, body: dict[str, Any], *, method: str = "POST", whole: bool = True):
        """whole: the body comes to its end."""
        self.sent: list[dict[str, Any]] = []
        self.more = asyncio.Event()  # something was sent
        self._left = asyncio.Event()
        self._whole = whole
        self.reads = asyncio.Event()  # while it is not set, nothing more of the answer is taken
        self.reads.set()
        self._body: bytes | None = json.dumps(body).encode()
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
            "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "client": ("test", 1),
            "server": ("small", 80), "headers": [(b"content-type", b"application/json")],
        }  # fmt: skip
        self.task = asyncio.ensure_future(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": not self._whole}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        await self.reads.wait()
        self.sent.append(message)
        self.more.set()

    @property
    def text(self) -> str:
        return b"".join(x.get("body", b"") for x in self.sent).decode()

    async def until(self, text: str) -> None:
        """Wait until `text` has been sent."""
        while text not in self.text:
            self.more.clear()
            await asyncio.wait_for(self.more.wait(), 10)

    async def leave(self) -> None:
        """The client goes; returns when the app is through with the request."""
        self._left.set()
        await asyncio.wait_for(self.task, 10)
