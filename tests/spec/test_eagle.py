"""EAGLE-3 heads: their guesses against a plain computation of the whole text, and answers that they do not change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from draft_pair import eagle_head, guesses_of
from engine_place import Place, local_runner
from safetensors.torch import load_file, save_file
from speculation_cases import asked, told
from torch.nn import functional

from quire.engine.config import Speculation
from quire.engine.errors import ConfigError

NAMES = ("greedy", "sampled", "hot", "penalties", "logprobs", "grammar", "n")
WIDTH, HEADS, KV, OWN = 64, 4, 2, 200


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny_model) -> Path:
    """Eight layers, so that three of them can be told apart; the tokenizer of the tiny one."""
    import shutil

    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("eagle") / "model"
    shutil.copytree(tiny_model, folder)
    vocab = json.loads((tiny_model / "config.json").read_text())["vocab_size"]
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=WIDTH, intermediate_size=96, num_hidden_layers=8, num_attention_heads=HEADS,
        num_key_value_heads=KV, max_position_embeddings=512, initializer_range=0.2, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def head(model, tmp_path_factory) -> Path:
    return eagle_head(model, tmp_path_factory.mktemp("eagle-head") / "head", own=OWN)


def runner_with(model: Path, head: Path):
    speculation = Speculation(method="eagle3", model=str(head), adaptive=False, num_speculative_tokens=4)
    runner = local_runner(model, speculative_config=speculation)
    runner.speculator.proposers = []
    return runner


class Plain:
    """The head without pages: all of a text at once, by transformers and plain torch."""

    def __init__(self, model: Path, head: Path):
        from transformers import LlamaForCausalLM

        self.model = LlamaForCausalLM.from_pretrained(model, dtype=torch.float32)
        self.parts = load_file(head / "model.safetensors")
        self.early = json.loads((head / "config.json").read_text()).get("norm_before_residual", False)

    @torch.inference_mode()
    def guesses(self, text: list[int], count: int) -> list[int]:
        """Greedy, behind a text whose last token the model has not computed."""
        p = self.parts
        hidden = self.model(torch.tensor([text[:-1]]), output_hidden_states=True).hidden_states
        features = torch.cat([hidden[layer][0] for layer in (2, 4, 5)], -1) @ p["fc.weight"].T
        tokens, made = text[1:], []
        for _ in range(count):
            states = self._layer(torch.tensor(tokens), features)
            row = int(self._normed(states[-1], "norm").matmul(p["lm_head.weight"].T).argmax())
            made.append(row + int(p["d2t"][row]) if "d2t" in p else row)
            tokens = [*tokens, made[-1]]
            features = torch.cat([features, states[-1:]])
        return made

    def _normed(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.rms_norm(x, (WIDTH,), self.parts[f"{name}.weight"], 1e-6)

    def _layer(self, tokens: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        p, dim, n = self.parts, WIDTH // HEADS, len(tokens)
        known = self._normed(features, "midlayer.hidden_norm")
        x = known if self.early else features
        embedded = self._normed(self.model.model.embed_tokens(tokens), "midlayer.input_layernorm")
        both = torch.cat([embedded, known], -1)
        q, k, v = (both @ p[f"midlayer.self_attn.{w}_proj.weight"].T for w in "qkv")
        q, k, v = (part.view(n, -1, dim) for part in (q, k, v))
        turns = torch.arange(n)[:, None, None] * 10000.0 ** (-torch.arange(0, dim, 2) / dim)
        turn = lambda t: torch.cat(  # noqa: E731
            [t[..., : dim // 2] * turns.cos() - t[..., dim // 2 :] * turns.sin(),
             t[..., dim // 2 :] * turns.cos() + t[..., : dim // 2] * turns.sin()], -1,
        )  # fmt: skip
        q, k = turn(q), turn(k)
        k, v = (part.repeat_interleave(HEADS // KV, 1) for part in (k, v))
        mixed = functional.scaled_dot_product_attention(*(part.transpose(0, 1) for part in (q, k, v)), is_causal=True)
        x = x + mixed.transpose(0, 1).reshape(n, -1) @ p["midlayer.self_attn.o_proj.weight"].T
        h = self._normed(x, "midlayer.post_attention_layernorm")
        gate, up = (h @ p[f"midlayer.mlp.{w}_proj.weight"].T for w in ("gate", "up"))
        return x + (functional.silu(gate) * up) @ p["midlayer.mlp.down_proj.weight"].T


@pytest.mark.parametrize("own", [OWN, None])
@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("room", [{}, {"pages": 14}, {"budget": 20}])
def test_its_guesses_are_those_of_a_plain_computation(model, tmp_path, own, early, room):
    head = eagle_head(model, tmp_path / "head", own=own, norm_before_residual=early)
    runner = runner_with(model, head)
    place = Place(runner, **room)
    for n in range(4):
        place.add(f"g{n}", None, 30, temperature=0.0, prompt=[7, 8 + n, 9] * (3 + 9 * (n % 3)))
    with guesses_of(runner) as checks:
        place.run()
    assert runner.speculator.maker is not None
    if "pages" in room:
        assert place.state.preemptions
    plain = Plain(model, head)
    made = [(text, drafts) for text, drafts in checks if drafts]
    assert len(made) > 60
    for text, drafts in made[::9]:
        assert drafts == plain.guesses(text, len(drafts))


@pytest.mark.parametrize("room", [{"budget": 400}, {"pages": 40}, {"budget": 17}])
def test_the_answers_are_those_without_it(model, head, room):
    plain = asked(Place(local_runner(model, speculative_config=Speculation(method="none"))), NAMES).run()
    runner = runner_with(model, head)
    place = asked(Place(runner, **room), NAMES).run()
    assert not place.failed
    assert told(place) == told(plain)
    assert sum(runner.speculator.tally.drafted["eagle3"]) > 500
    assert not len(runner.speculator.maker.shadows)
    runner.speculator.maker.shadows.pool.check([])


def test_a_text_whose_pages_were_found_is_drafted_for_all_the_same(model, head):
    """The head's own pages are found by the same names."""
    runner = runner_with(model, head)
    place = Place(runner)
    prompt = [11, 12, 13, 14] * 20
    for n in range(2):
        place.add(f"p{n}", None, 12, temperature=0.0, prompt=prompt)
        with guesses_of(runner) as checks:
            place.run()
        assert sum(bool(drafts) for _, drafts in checks) > 3
    first = next(text for text, drafts in checks if drafts)
    drafts = next(drafts for text, drafts in checks if text == first)
    assert drafts == Plain(model, head).guesses(first, len(drafts))


def test_nothing_is_kept_of_sequences_that_are_gone(model, head):
    runner = runner_with(model, head)
    asked(Place(runner), ("greedy", "sampled")).run()
    maker = runner.speculator.maker
    assert sum(runner.speculator.tally.drafted["eagle3"]) > 20
    assert not len(maker.shadows)
    assert not maker._states
    assert not maker._sampler._links


# ---------------------------------------------------------------- what is refused


def changed(head: Path, to: Path, parts=lambda found: found, config=lambda found: found) -> Path:
    to.mkdir()
    save_file(parts(load_file(head / "model.safetensors")), to / "model.safetensors")
    (to / "config.json").write_text(json.dumps(config(json.loads((head / "config.json").read_text()))))
    return to


@pytest.mark.parametrize(
    ("parts", "config", "said"),
    [
        (lambda found: {**found, "fc.weight": torch.zeros(WIDTH, 3 * 32)}, dict, "fc.weight"),
        (lambda found: {k: v for k, v in found.items() if k != "d2t"}, dict, "no d2t"),
        (lambda found: {**found, "d2t": found["d2t"] + 10_000}, dict, "d2t"),
        (lambda found: {**found, "more.weight": torch.zeros(2)}, dict, "more.weight"),
        (lambda found: found, lambda found: {**found, "vocab_size": 17}, "vocab_size is 17"),
    ],
)
def test_a_head_that_does_not_fit_is_refused_by_name(model, head, tmp_path, parts, config, said):
    with pytest.raises(ConfigError, match=said):
        runner_with(model, changed(head, tmp_path / "head", parts, config))


def test_a_model_that_is_too_shallow(tiny_model, head):
    with pytest.raises(ConfigError, match="four layers"):
        runner_with(tiny_model, head)
