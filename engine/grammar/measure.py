"""What grammars cost: `python -m quire.engine.grammar.measure TOKENIZER.json EOS_ID [TOOLS.jsonl.gz]`. JSON, a line a
schema. TOOLS: lines with `tools`, the parameters of whose functions are compiled, each once."""

from __future__ import annotations

import gzip
import itertools
import json
import random
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from . import compile, warm
from .spec import GrammarSpec, Limits
from .vocabulary import Vocabulary, members

SCHEMAS: dict[str, Any] = {
    "call": {
        "type": "object",
        "properties": {"location": {"type": "string"}, "unit": {"enum": ["c", "f"]}, "days": {"type": "integer"}},
        "required": ["location"],
        "additionalProperties": False,
    },
    "person": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "born": {"type": "string", "format": "date"},
            "score": {"type": "number", "minimum": 0, "maximum": 1},
            "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 5},
        },
        "required": ["name", "born", "tags"],
        "additionalProperties": False,
    },
    "tree": {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "value": {"type": "integer"},
                    "left": {"$ref": "#/$defs/node"},
                    "right": {"$ref": "#/$defs/node"},
                },
                "required": ["value"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/node",
    },
    "choices": {"type": "array", "items": {"enum": [f"option {i}" for i in range(200)]}},
    "tools": {
        "anyOf": [
            {
                "type": "object",
                "properties": {
                    "name": {"const": f"tool_{i}"},
                    "arguments": {"type": "object", "properties": {f"a{j}": {"type": "string"} for j in range(4)}},
                },
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
            for i in range(20)
        ]
    },
    "any": {"type": "object"},
}
ANSWERS, TOKENS, COMPILED, FUNCTIONS = 4, 120, 20, 400


def masks(schema: str, vocabulary: Vocabulary, near: bool) -> list[float]:
    """Seconds of each mask of random answers. near: few tokens are left, so that each is tried."""
    grammar = compile(GrammarSpec(kind="json_schema", text=schema), vocabulary)
    row = vocabulary.mask([])
    found = []
    for answer in range(ANSWERS):
        pick = random.Random(answer)
        matcher = grammar.matcher()
        most = (grammar.shortest or 0) + 8 if near else TOKENS
        for taken in range(most):
            left = most - taken if near else 1_000_000
            began = time.perf_counter()
            matcher.fill_mask(row, left)
            found.append(time.perf_counter() - began)
            allowed = members(row)
            matcher.accept([pick.choice(allowed) if pick.random() < 0.7 else allowed[0]])
            if matcher.must_end:
                break
    return found


def compiling(schemas: Iterable[str], vocabulary: Vocabulary) -> list[float]:
    found = []
    for schema in schemas:
        began = time.perf_counter()
        compile(GrammarSpec(kind="json_schema", text=schema), vocabulary, Limits())
        found.append(time.perf_counter() - began)
    return found


def functions(path: Path) -> Iterator[str]:
    """Their parameters, as schemas."""
    with gzip.open(path, "rt") as lines:
        for line in itertools.islice(lines, FUNCTIONS):
            for tool in json.loads(line).get("tools", ()):
                yield json.dumps(tool.get("function", tool)["parameters"])


def summed(times: list[float], unit: float) -> dict[str, float]:
    ordered = sorted(times)
    p50, p99 = ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    return {
        name: round(value * unit, 1) for name, value in (("mean", statistics.fmean(times)), ("p50", p50), ("p99", p99))
    }


def main() -> None:
    path, eos, *tools = sys.argv[1:]
    vocabulary = Vocabulary(Path(path).read_text(encoding="utf-8"), (int(eos),))
    began = time.perf_counter()
    warm(vocabulary)
    print(json.dumps({"tokens": vocabulary.size, "warm_seconds": round(time.perf_counter() - began, 2)}))
    far, compiled = [], []
    for name, schema in SCHEMAS.items():
        text = json.dumps(schema)
        times, build, near = (
            masks(text, vocabulary, False),
            compiling([text] * COMPILED, vocabulary),
            masks(text, vocabulary, True),
        )
        far += times
        compiled += build
        print(
            json.dumps(
                {
                    "schema": name,
                    "mask_us": summed(times, 1e6),
                    "near_us": summed(near, 1e6),
                    "compile_ms": summed(build, 1e3),
                }
            )
        )
    print(json.dumps({"schema": "all", "mask_us": summed(far, 1e6), "compile_ms": summed(compiled, 1e3)}))
    for file in map(Path, tools):
        times = compiling(functions(file), vocabulary)
        print(json.dumps({"schema": f"{len(times)} of {file.name}", "compile_ms": summed(times, 1e3)}))


if __name__ == "__main__":
    main()
