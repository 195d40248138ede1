"""The benchmark of grammars: what it asks, how it counts, and that one command does it all."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict

import httpx
import pytest
from transformers import AutoConfig, AutoTokenizer

from quire.clients.bench import bound, hostile
from quire.clients.bench.bound import Answer, Chat, Pair, Result, rate
from quire.clients.bench.grammars import table
from quire.clients.bench.load import BenchError
from quire.clients.bench.make_model import make_model


def test_no_two_hostile_requests_are_alike_and_none_is_too_large_to_be_read():
    asked = [body for _, (_, body) in zip(range(10 * len(hostile.HOSTILE)), hostile.hostile(0), strict=False)]
    texts = [json.dumps(body | {"seed": 0}) for body in asked]
    assert len(set(texts)) == len(texts)
    assert max(map(len, texts)) < 256 * 1024


def test_a_rate_is_of_the_tokens_behind_the_first_piece():
    answers = [Answer([(1.0, 3), (2.0, 4), (3.0, 9)]), Answer([(5.0, 1), (7.0, 5)]), Answer([(9.0, 7)])]
    assert rate(answers) == pytest.approx((6 + 4) / (2 + 2))


def test_a_row_is_of_ratios_inside_rounds():
    pairs = (Pair(100, 50, 4, 8, 40, 10, 2), Pair(10, 9, 9, 10, 60, 10, 2), Pair(10, 10, 9, 9, 50, 10, 2))
    row = list(Result("x", 4, pairs).row())
    assert row == ["x", "4", "10.0", "10.0", "0.900 (0.500 to 1.000)", "0.900", "25", "20.0%"]
    assert len(row) == len(bound.HEAD)
    assert table(("a", "b"), [(1, 2)]) == "| a | b |\n| --- | ---: |\n| 1 | 2 |"


def test_phases_add_up_to_a_row_that_can_be_written_down():
    phase = hostile.Phase()
    phase.add(hostile.Phase([1.0, 3.0], [5.0], {"200": 2, "503": 1}, {"huge": 1.5}))
    phase.add(hostile.Phase([2.0], [], {"200": 1, "400": 4}, {"huge": 0.5}))
    statuses = "8: 3, 4, 1 {'503': 1}"
    assert [list(row) for row in phase.rows("x")] == [
        ["x", "3", "2.0", "3.0", "3.0", statuses],
        ["x; streams of a schema", "1", "5.0", "5.0", "5.0", statuses],
    ]
    assert json.loads(json.dumps(asdict(phase)))["slowest"] == {"huge": 1.5}


async def test_a_client_that_leaves_has_read_no_more_and_a_refusal_is_no_answer():
    usage = [{"completion_tokens": n, "completion_tokens_details": {"forced_tokens": 1}} for n in (2, 2, 5, 9)]
    lines = "".join(f"data: {json.dumps({'choices': [], 'usage': u})}\n\n" for u in usage) + "data: [DONE]\n\n"

    def answers(request: httpx.Request) -> httpx.Response:
        refused = "grammar" in json.loads(request.content)
        return httpx.Response(400 if refused else 200, text="no" if refused else lines)

    async with httpx.AsyncClient(transport=httpx.MockTransport(answers)) as client:
        chat = Chat(client, "http://there/v1", "m")
        assert [n for _, n in (await chat.ask({})).pieces] == [2, 5, 9]
        assert (await chat.ask({}, leave=4)).tokens == 5
        with pytest.raises(BenchError, match="HTTP 400"):
            await chat.ask({"grammar": "x"})


def test_tools_come_from_a_file_or_it_is_named(tmp_path):
    path = tmp_path / "tools.jsonl"
    path.write_text(
        '{"tools": [{"name": "f"}]}\n{"text": "x"}\n{"tools": [{"type": "function", "function": {"name": "g"}}]}'
    )
    assert bound.read_tools(path, 5) == [[{"name": "f"}], [{"name": "g"}]]
    path.write_text('{"text": "x"}')
    for broken in (path, tmp_path / "absent.jsonl"):
        with pytest.raises(BenchError, match=broken.name):
            bound.read_tools(broken, 5)


def test_a_model_takes_a_tokenizer_and_further_control_tokens(tiny_model, tmp_path):
    folder = tmp_path / "model"
    make_model("tiny", folder, tokenizer=tiny_model / "tokenizer.json", tokens=("<call>",))
    config, tokenizer = AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert (config.vocab_size, config.tie_word_embeddings) == (640, True)  # 601, filled up
    assert tokenizer.convert_tokens_to_ids("<call>") == 600
    assert config.eos_token_id == tokenizer.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    (tmp_path / "none.json").write_text("{}")
    with pytest.raises(ValueError, match=r"none\.json"):
        make_model("tiny", tmp_path / "other", tokenizer=tmp_path / "none.json")


@pytest.mark.slow
def test_one_command_makes_a_model_starts_a_server_and_prints_the_tables(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "quire.clients.bench.grammars", "--model", "tiny", "--rounds", "1", "--requests", "2",
         "--concurrency", "2", "--tokens", "128", "--seconds", "2", "--phases", "1",
         "--json", str(tmp_path / "out.json")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    assert [row["workload"] for row in found["speed"]] == [
        "document, far from its budget's end", "document, ended by its budget", "function calls"
    ]  # fmt: skip
    assert sum(found["gaps_ms"]["hostile grammars"]["statuses"].values()) > 0
    assert done.stdout.count("| --- |") == 2
