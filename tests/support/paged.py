"""A tiny random model of any family, and its logits at every position through the paged cache."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers

from quire.engine.attention import choose_backend
from quire.engine.batch import Batch
from quire.engine.config import BLOCK_SIZE
from quire.engine.messages import SamplingParams
from quire.engine.models import CausalLM
from quire.engine.plan import Plan, Slice
from quire.engine.sequence import Sequence

CPU = torch.device("cpu")
VOCAB = 101

SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

SMALL_GPT2 = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}


def make(name: str, folder: Path, **fields) -> torch.nn.Module:
    """A random model of a family, saved to `folder`; weights large enough that every part of it matters."""
    config_class = getattr(transformers, "Gemma3TextConfig" if name == "Gemma3" else f"{name}Config")
    model_class = getattr(transformers, "GPT2LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM")
    torch.manual_seed(1)
    model = model_class(config_class(**{**(SMALL_GPT2 if name == "GPT2" else SMALL), **fields})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.15)
    model.save_pretrained(folder)
    return model


@torch.inference_mode()
def run(
    model: CausalLM, prompts: list[list[int]], steps: list[list[tuple[int, int]]], attention: str = "auto"
) -> list[torch.Tensor]:
    """Logits of every position of every prompt. A step is slices of (prompt, tokens)."""
    backend = choose_backend(attention, model.dtype, CPU)
    cache = backend.cache(model.layers, 40, model.dtype, CPU)
    free = list(range(40))[::-3] + [i for i in range(40) if i not in range(40)[::-3]]
    seqs = [Sequence(str(i), 0, p, SamplingParams(max_tokens=1, seed=0)) for i, p in enumerate(prompts)]
    found: list[list[torch.Tensor]] = [[] for _ in prompts]
    for step in steps:
        slices = []
        for i, count in step:
            seq, start = seqs[i], seqs[i].computed
            while len(seq.blocks) * BLOCK_SIZE < start + count:
                seq.blocks.append(free.pop())
            slices.append(Slice(seq, start, seq.tokens[start : start + count]))
            seq.computed += count
        batch = Batch.of(Plan(slices), CPU)
        hidden = model.forward(batch.tokens, batch.positions, backend.plan(batch, model.layers, cache))
        for (i, _), rows in zip(step, model.logits(hidden).split([c for _, c in step]), strict=True):
            found[i].append(rows)
    return [torch.cat(rows) for rows in found]


PROMPTS = [[(7 * i * i + 3 * i + k) % VOCAB for i in range(n)] for k, n in ((1, 40), (2, 1), (3, 23))]
RAGGED = [[(0, 17)], [(0, 1), (2, 20)], [(1, 1), (2, 1), (0, 21)], [(2, 2), (0, 1)]]
