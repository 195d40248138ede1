"""The measurements of grammars give figures of everything they name."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from grammars import FOLDERS

from quire.engine.grammar import measure


def test_a_line_a_schema_and_one_of_the_functions_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tools = tmp_path / "tools.jsonl.gz"
    function = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}
    lines = [{"tools": [function, {"type": "function", "function": function}]}, {"text": "none here"}]
    tools.write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    for name in ("ANSWERS", "TOKENS", "COMPILED"):
        monkeypatch.setattr(measure, name, 2)
    monkeypatch.setattr(measure, "SCHEMAS", {"any": measure.SCHEMAS["any"]})
    folder, (eos,) = FOLDERS["stories-512"]
    monkeypatch.setattr("sys.argv", ["measure", str(folder / "tokenizer.json"), str(eos), str(tools)])
    measure.main()
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line.get("schema") for line in found] == [None, "any", "all", "2 of tools.jsonl.gz"]
    assert found[0]["tokens"] == 512
    assert all(line["compile_ms"]["p50"] > 0 for line in found[1:])
    assert all(line["mask_us"]["p99"] > 0 for line in found[1:3])
