"""The benchmark of speculation: what it asks, and that one command does it all."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from quire.clients.bench.make_model import DRAFT_LAYERS, make_draft, make_model
from quire.clients.bench.speculation import Rates, asked, edited


def test_a_prediction_is_the_answer_with_some_words_changed():
    words = [f"w{n}" for n in range(60)]
    (body, *_) = asked("edits", 1, 0, "m", 9)
    content = edited(body, " ".join(words), 1)["prediction"]["content"]
    same = [a == b for a, b in zip(content.split(), words, strict=True)]
    assert 40 < sum(same) < 60
    assert body.keys() | {"prediction"} == edited(body, "a", 1).keys()


def test_ratios_are_those_of_rounds():
    row = Rates([10.0, 30.0, 90.0], [10.0, 20.0, 30.0]).row("greedy", 4, 200, 150)
    assert row == "| greedy | 4 | 30 | 20 | 1.50 (1.00 to 3.00) | 200, 75% |"


def test_a_draft_model_of_a_model_has_its_first_layers(tiny_model, tmp_path):
    folder, draft = shutil.copytree(tiny_model, tmp_path / "model"), tmp_path / "draft"
    make_draft(folder, draft)
    first, second = (load_file(path / "model.safetensors") for path in (folder, draft))
    assert second.keys() <= first.keys()
    assert all(torch.equal(first[name], second[name]) for name in second)
    assert json.loads((draft / "config.json").read_text())["num_hidden_layers"] == DRAFT_LAYERS
    assert json.loads((draft / "tokenizer.json").read_text()) == json.loads((folder / "tokenizer.json").read_text())


@pytest.mark.slow
def test_one_command_measures_it_all(tmp_path):
    make_model("tiny", tmp_path)
    flags = [
        "--rounds",
        "1",
        "--tokens",
        "48",
        "--kinds",
        "greedy",
        "edits",
        "sampled",
        "json",
        "--concurrency",
        "1",
        "3",
        "--port",
        "18481",
    ]
    command = [sys.executable, "-m", "quire.clients.bench.speculation", str(tmp_path), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if re.match(r"\| (greedy|edits|sampled|json) ", line)]
    assert len(rows) == 8
