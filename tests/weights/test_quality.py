"""The tool that says what a quantization costs: the same model costs nothing, another one what plain torch says."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from paged import CPU, VOCAB, make

from quire import pocket
from quire.engine.models.load import load_model
from quire.engine.weights import quality

TOKENS = [(11 * i * i + 5 * i) % VOCAB for i in range(150)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two models of one shape, ours and transformers'."""
    found = []
    for heads in (2, 4):
        folder = tmp_path_factory.mktemp("model")
        theirs = make("Llama", folder, num_key_value_heads=heads)
        found.append((load_model(folder, dtype="float32", device=CPU), theirs))
    return found


def test_the_same_weights_cost_nothing(models):
    (ours, _), _ = models
    first, second = quality.measure(lambda kind: ours, TOKENS, ["int8"], window=64)
    assert (first.weights, second.weights) == ("float", "int8")
    assert second.kl_mean == second.kl_99 == 0
    assert second.agree == 1
    assert second.loss == first.loss


def test_other_weights_cost_what_plain_torch_says(models):
    """Windows of 64, 64 and 22 tokens, each from its start on."""
    (ours, plain), (other, plain_other) = models
    _, found = quality.measure(lambda kind: other if kind else ours, TOKENS, ["int4"], window=64)
    losses, kls, same = [], [], []
    for start in (0, 64, 128):
        tokens = torch.tensor([TOKENS[start : start + 64]])
        with torch.inference_mode():
            p, q = (m(tokens).logits[0, :-1].double().log_softmax(-1) for m in (plain, plain_other))
        losses.append(torch.nn.functional.nll_loss(q, tokens[0, 1:], reduction="none"))
        kls.append(torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1))
        same.append(p.argmax(-1) == q.argmax(-1))
    kl = torch.cat(kls)
    assert len(kl) == 147
    assert found.loss == pytest.approx(float(torch.cat(losses).mean()), rel=1e-4)
    assert found.kl_mean == pytest.approx(float(kl.mean()), rel=1e-3)
    assert found.kl_99 == pytest.approx(float(kl.sort().values[145]), rel=1e-3)  # 146 of 147 have no more
    assert found.agree == float(torch.cat(same).double().mean())
    assert found.bytes == other.weight_bytes


def test_a_text_of_one_token_says_nothing(models):
    (ours, _), _ = models
    with pytest.raises(ValueError, match="the text has 1 tokens; expected at least two"):
        quality.measure(lambda kind: ours, TOKENS[:1], ["int8"])


def test_a_model_of_other_tokens_cannot_be_compared(models):
    (ours, _), _ = models
    with pytest.raises(ValueError, match="int8 has 7 tokens; expected the float model's 101"):
        quality.measure(lambda kind: SimpleNamespace(vocab_size=7) if kind else ours, TOKENS, ["int8"])


def test_the_table_is_markdown():
    lines = [
        quality.Quality("float", 4 << 20, 2.0, 0.0, 0.0, 1.0),
        quality.Quality("int8", 1 << 20, 2.0001, 0.00012, 0.0015, 0.9975),
    ]
    assert quality.table(lines).splitlines() == [
        "| weights | MiB | perplexity | mean KL | 99 % of KL | same likeliest token |",
        "|---|---:|---:|---:|---:|---:|",
        "| float | 4.0 | 7.3891 | | | |",
        "| int8 | 1.0 | 7.3898 | 0.00012 | 0.00150 | 99.75 % |",
    ]


def test_the_command_reads_a_text_with_the_embedded_model(tmp_path, monkeypatch, capsys):
    asked = []

    def load(folder, *, quantization, **more):
        asked.append((folder, quantization))
        return load_model(folder, **more)

    monkeypatch.setattr(quality, "load_model", load)
    text = tmp_path / "text.txt"
    text.write_text("The capital of France is Paris. " * 20, encoding="utf-8")
    elsewhere = str(pocket.FOLDER)
    quality.main(["--text", str(text), "--quantization", "int8", elsewhere, "--tokens", "40", "--window", "32"])
    head, _, *lines = capsys.readouterr().out.splitlines()
    assert head == "model: 40 tokens of text.txt in windows of at most 32"
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| float", "| int8", f"| {elsewhere}"]
    assert asked == [(pocket.FOLDER, kind) for kind in (None, "int8", None)]


def test_a_text_that_is_not_there_is_said_and_not_raised(tmp_path):
    with pytest.raises(SystemExit, match=r"quality: .*none\.txt"):
        quality.main(["--text", str(tmp_path / "none.txt")])


def test_a_quantization_that_there_is_not_is_said(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("The capital of France is Paris. ", encoding="utf-8")
    with pytest.raises(SystemExit, match="quality: quantization is 'int3'; expected int8, int4 or a model folder"):
        quality.main(["--text", str(text), "--quantization", "int3"])
