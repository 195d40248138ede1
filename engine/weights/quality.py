"""What a quantization costs in quality:

    python -m quire.engine.weights.quality [MODEL] --text FILE --quantization int8 int4

The text is read in windows, each from its start on, by the model in float and by each quantization of it, which may be
the folder of a checkpoint that was quantized elsewhere. A Markdown table says what each makes of the text (perplexity),
how far its next-token distributions are from the float model's (KL(float || quantized) in nats, the share of tokens
whose likeliest is the same), and how many bytes its weights take. Keys and values are kept as where it is served
(`--kv-cache-dtype`), and those of the float model in float32.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ... import pocket
from ..attention import choose_backend
from ..batch import Batch
from ..config import BLOCK_SIZE
from ..errors import QuireError
from ..messages import SamplingParams
from ..models import CausalLM
from ..models.load import BITS, load_model
from ..plan import Plan, Slice
from ..sequence import Sequence as Sequence_
from ..tokens import description_of

FLOAT = "float"
WINDOW = 1024  # tokens, of models that could read more
ROWS = 64  # rows projected to logits at once

Load = Callable[[str | None], CausalLM]  # quantization, None: float -> the model
Windows = list[list[int]]  # tokens


@dataclass(frozen=True, slots=True)
class Quality:
    """One line of the table."""

    weights: str
    bytes: int
    loss: float  # nats a token
    kl_mean: float
    kl_99: float  # 99 of 100 tokens have no more
    agree: float  # share of tokens


def measure(
    load: Load, tokens: Sequence[int], kinds: Iterable[str], window: int = WINDOW, kept: str = "auto"
) -> list[Quality]:
    """The float model's line, then that of each of `kinds` with its keys and values as `kept` says (choose_backend).

    Raises ValueError where the text is too short, or a model has other tokens.
    """
    model = load(None)
    size = min(window, model.max_position)
    windows = [list(tokens[i : i + size]) for i in range(0, len(tokens), size)]
    windows = [w for w in windows if len(w) > 1]
    if not windows:
        raise ValueError(f"the text has {len(tokens)} tokens; expected at least two")
    truth = hidden_states(model, windows, "float32")
    lines = [compare(FLOAT, model, truth, model, truth, windows)]
    for kind in kinds:
        other = load(kind)
        if other.vocab_size != model.vocab_size:
            raise ValueError(f"{kind} has {other.vocab_size} tokens; expected the float model's {model.vocab_size}")
        lines.append(compare(kind, model, truth, other, hidden_states(other, windows, kept), windows))
    return lines


@torch.inference_mode()
def hidden_states(model: CausalLM, windows: Windows, kept: str) -> list[Tensor]:
    """What the model makes of each window, [tokens, width]."""
    pages = -(-max(map(len, windows)) // BLOCK_SIZE)
    backend = choose_backend("auto", model.dtype, model.device, kept, weights=model.kinds)
    cache = backend.cache(model.layers, pages, model.dtype, model.device)
    found = []
    for tokens in windows:
        seq = Sequence_("quality", 0, tokens, SamplingParams(max_tokens=1, seed=0))
        seq.blocks = list(range(pages))
        batch = Batch.of(Plan([Slice(seq, 0, tokens)]), model.device)
        attend = backend.plan(batch, model.layers, cache)
        found.append(model.forward(batch.tokens, batch.positions, attend))
    return found


@torch.inference_mode()
def compare(
    name: str, model: CausalLM, truth: list[Tensor], other: CausalLM, states: list[Tensor], windows: Windows
) -> Quality:
    """`other`, with its hidden states, beside the float model with its own; a window's last token foretells none."""
    losses, divergences, same = [], [], []
    for tokens, ours, theirs in zip(windows, truth, states, strict=True):
        following = torch.tensor(tokens[1:], device=model.device)
        for rows in spans(len(following)):
            expected = model.logits(ours[:-1][rows]).log_softmax(-1)
            found = other.logits(theirs[:-1][rows]).log_softmax(-1)
            losses.append(-found.gather(-1, following[rows, None])[:, 0])
            divergences.append((expected.exp() * (expected - found)).sum(-1))
            same.append(expected.argmax(-1) == found.argmax(-1))
    kl = torch.cat(divergences).double()
    return Quality(
        weights=name,
        bytes=other.weight_bytes,
        loss=float(torch.cat(losses).double().mean()),
        kl_mean=float(kl.mean()),
        kl_99=float(kl.sort().values[math.ceil(0.99 * len(kl)) - 1]),
        agree=float(torch.cat(same).double().mean()),
    )


def spans(count: int) -> Iterator[slice]:
    for start in range(0, count, ROWS):
        yield slice(start, start + ROWS)


def table(lines: Iterable[Quality]) -> str:
    """Markdown."""
    head = (
        "| weights | MiB | perplexity | mean KL | 99 % of KL | same likeliest token |\n|---|---:|---:|---:|---:|---:|\n"
    )
    return head + "".join(
        f"| {x.weights} | {x.bytes / 2**20:.1f} | {math.exp(x.loss):.4f} | "
        + ("| | |\n" if x.weights == FLOAT else f"{x.kl_mean:.5f} | {x.kl_99:.5f} | {100 * x.agree:.2f} % |\n")
        for x in lines
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m quire.engine.weights.quality", description="What a quantization costs"
    )
    parser.add_argument("model", nargs="?", type=Path, help="a model folder; none: the one that is embedded")
    parser.add_argument("--text", type=Path, required=True, help="a text file, UTF-8")
    parser.add_argument("--quantization", nargs="+", default=["int8", "int4"], metavar="KIND|FOLDER")
    parser.add_argument("--kv-cache-dtype", default="auto", help="of the quantized ones, as serve has it (%(default)s)")
    parser.add_argument("--tokens", type=int, help="of the text; all if not given")
    parser.add_argument(
        "--window", type=int, default=WINDOW, help="tokens read at once, if the model can (%(default)s)"
    )
    args = parser.parse_args(argv)
    from tokenizers import Tokenizer

    folder = args.model or pocket.FOLDER

    def load(kind: str | None) -> CausalLM:
        where, quantization = folder, kind
        if kind is not None and kind not in BITS:
            where, quantization = Path(kind), None
            if not where.is_dir():
                raise ValueError(f"quantization is {kind!r}; expected {', '.join(BITS)} or a model folder")
        return load_model(where, dtype="auto", device=torch.device("cpu"), quantization=quantization)

    try:
        if args.model is None:
            pocket.verify(folder)
        text = args.text.read_text(encoding="utf-8")
        tokens = Tokenizer.from_str(description_of(folder)).encode(text).ids[: args.tokens]
        lines = measure(load, tokens, args.quantization, args.window, args.kv_cache_dtype)
    except (QuireError, OSError, ValueError) as error:
        sys.exit(f"quality: {error}")
    print(f"{folder.name}: {len(tokens)} tokens of {args.text.name} in windows of at most {args.window}\n")
    print(table(lines), end="")


if __name__ == "__main__":
    main()
