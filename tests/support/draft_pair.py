"""A model and a draft model that agrees with it as often as a test wants."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from quire.engine.runner import Runner


def blurred(folder: Path, to: Path, noise: float, *, seed: int = 0) -> Path:
    """A copy whose weights are moved by so much of their own size: 0 is the same model."""
    shutil.copytree(folder, to)
    torch.manual_seed(seed)
    weights = load_file(to / "model.safetensors")
    for name, weight in weights.items():
        weights[name] = weight + noise * weight.float().std().to(weight.dtype) * torch.randn_like(weight)
    save_file(weights, to / "model.safetensors", {"format": "pt"})
    return to


def untrained_heads(folder: Path, to: Path, count: int) -> Path:
    """Medusa heads as they begin: each says what the model's own head says, under the authors' names."""
    to.mkdir()
    weights = load_file(folder / "model.safetensors")
    head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"]).float()
    parts = {}
    for n in range(count):
        parts[f"{n}.0.linear.weight"] = torch.zeros(head.shape[1], head.shape[1])
        parts[f"{n}.0.linear.bias"] = torch.zeros(head.shape[1])
        parts[f"{n}.1.weight"] = head.clone()
    save_file(parts, to / "medusa_lm_head.safetensors")
    return to


def eagle_head(model: Path, to: Path, *, own: int | None = None, **config) -> Path:
    """A random EAGLE-3 head for a Llama, under the authors' names. own: tokens of a vocabulary of its own, every second
    one of the model's."""
    target = json.loads((model / "config.json").read_text())
    width, heads, vocab = (target[name] for name in ("hidden_size", "num_attention_heads", "vocab_size"))
    kv, inner, dim = target["num_key_value_heads"], target["intermediate_size"], width // heads
    torch.manual_seed(7)
    product = lambda *shape: torch.randn(*shape) * shape[-1] ** -0.5  # noqa: E731
    norm = lambda: 1 + 0.1 * torch.randn(width)  # noqa: E731
    at = "midlayer"
    parts = {
        "fc.weight": product(width, 3 * width),
        "norm.weight": norm(),
        f"{at}.input_layernorm.weight": norm(),
        f"{at}.hidden_norm.weight": norm(),
        f"{at}.post_attention_layernorm.weight": norm(),
        f"{at}.self_attn.q_proj.weight": product(heads * dim, 2 * width),
        f"{at}.self_attn.k_proj.weight": product(kv * dim, 2 * width),
        f"{at}.self_attn.v_proj.weight": product(kv * dim, 2 * width),
        f"{at}.self_attn.o_proj.weight": product(width, heads * dim),
        f"{at}.mlp.gate_proj.weight": product(inner, width),
        f"{at}.mlp.up_proj.weight": product(inner, width),
        f"{at}.mlp.down_proj.weight": product(width, inner),
        "lm_head.weight": product(own or vocab, width),
    }
    if own:
        parts["d2t"] = torch.arange(own)  # row n is token 2 n
        parts["t2d"] = torch.arange(vocab) % 2 == 0
    to.mkdir()
    save_file(parts, to / "model.safetensors")
    described = {
        "architectures": ["LlamaForCausalLMEagle3"], "hidden_size": width, "intermediate_size": inner,
        "num_hidden_layers": 1, "num_attention_heads": heads, "num_key_value_heads": kv, "rms_norm_eps": 1e-6,
        "vocab_size": vocab, "max_position_embeddings": target["max_position_embeddings"], "hidden_act": "silu",
        "rope_theta": 10000.0, **({"draft_vocab_size": own} if own else {}), **config,
    }  # fmt: skip
    (to / "config.json").write_text(json.dumps(described))
    return to


@contextmanager
def guesses_of(runner: Runner) -> Iterator[list[tuple[list[int], list[int]]]]:
    """Every text that the runner's maker was asked to go on with, and what it made of it."""
    maker, found = runner.speculator.maker, []
    assert maker is not None
    draft = maker.draft

    def watched(wanted):
        made = draft(wanted)
        found.extend((want.seq.tokens + want.new, one.tokens) for want, one in zip(wanted, made, strict=True))
        return made

    maker.draft = watched
    try:
        yield found
    finally:
        maker.draft = draft


def with_vocabulary(folder: Path, to: Path, change) -> Path:
    """A copy with another tokenizer.json."""
    shutil.copytree(folder, to)
    path = to / "tokenizer.json"
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))
    return to
