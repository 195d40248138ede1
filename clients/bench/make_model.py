"""Make a model folder with random weights: `python -m quire.clients.bench.make_model tiny ./tiny-model`.

Speed does not depend on what the weights are, so such a model serves for measuring, and for trying a server offline;
what it says is noise. The tokenizer is a byte-level BPE trained on Python's standard library, with a ChatML template;
or that of a tokenizer.json, whose rows then replace those of the shape, tied with the output's.

--draft writes a draft model too: the first layers of the model. What the later layers add is made small, so that the
two often agree, as a model and a draft that was trained for it do.

With --random NAME is a published shape (`published.py`), and nothing but the shape is written: the engine draws the
weights where it computes, each time it starts. So a model of 16 GB is there at once.
"""

from __future__ import annotations

import argparse
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
             "intermediate_size": 128, "vocab_size": 600, "max_position_embeddings": 2048},
    "llama-110m": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "num_key_value_heads": 4,
                   "intermediate_size": 2048, "vocab_size": 32000, "max_position_embeddings": 4096},
}  # fmt: skip
ENDS = ("<|im_end|>", "<|endoftext|>", "</s>")  # in a tokenizer that is given, the first of these ends the answers
ROWS = 64  # the vocabulary is filled up to a multiple of this, as models are
DRAFT_LAYERS, LATER = 2, 0.25  # and what the layers behind them add is so much of what they would
TEXT_BYTES = {"tiny": 200_000, "llama-110m": 20_000_000}  # to train the tokenizer on
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + (message['content'] or '')"
    " + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def corpus(size: int) -> Iterator[str]:
    """About `size` characters of Python source."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("**/*.py")):
        if size <= 0:
            return
        text = path.read_text(encoding="utf-8", errors="ignore")[:size]
        size -= len(text)
        yield text


def make_tokenizer(folder: Path, vocab_size: int, text_bytes: int) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(corpus(text_bytes), trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<|endoftext|>", eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    wrapped.chat_template = CHATML
    wrapped.save_pretrained(folder)


def copy_tokenizer(folder: Path, source: Path, tokens: Sequence[str]) -> dict[str, Any]:
    """Write the tokenizer of a tokenizer.json, with further control tokens behind its own; gives what a config has to
    say of it. Raises ValueError where it cannot be read or none of ENDS is in it."""
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerFast

    try:
        backend = Tokenizer.from_file(str(source))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{source}: cannot be read as a tokenizer ({error})") from None
    backend.add_tokens([AddedToken(token, normalized=False, special=False) for token in tokens])
    end = next((text for text in ENDS if backend.token_to_id(text) is not None), None)
    if end is None:
        raise ValueError(f"{source}: holds none of {', '.join(ENDS)}, of which one has to end the answers")
    wrapped = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=end, pad_token=end)
    wrapped.chat_template = CHATML
    wrapped.save_pretrained(folder)
    last = max(backend.get_vocab().values())
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), backend.token_to_id(end))
    return {"vocab_size": (last // ROWS + 1) * ROWS, "tie_word_embeddings": True, **ids}


def make_model(
    name: str, folder: Path, seed: int = 0, tokenizer: Path | None = None, tokens: Sequence[str] = ()
) -> None:
    """Write the folder: config, float32 safetensors drawn from N(0, 0.02), tokenizer, template. tokenizer: a
    tokenizer.json; tokens: further control tokens for it. Raises ValueError where that does not do."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    own: dict[str, Any] = {"tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0}
    if tokenizer is not None:
        own = copy_tokenizer(folder, tokenizer, tokens)
    config = LlamaConfig(**{**SHAPES[name], **own}, rms_norm_eps=1e-5)
    torch.manual_seed(seed)
    LlamaForCausalLM(config).float().save_pretrained(folder)
    if tokenizer is None:
        make_tokenizer(folder, config.vocab_size, TEXT_BYTES[name])


def make_draft(folder: Path, draft: Path) -> None:
    """Write the first DRAFT_LAYERS layers of the model in `folder` as a model of its own, and let others say less."""
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    layers = model.model.layers
    for layer in layers[DRAFT_LAYERS:]:
        for product in (layer.self_attn.o_proj, layer.mlp.down_proj):
            product.weight.data *= LATER
    model.save_pretrained(folder)
    model.model.layers = layers[:DRAFT_LAYERS]
    model.config.num_hidden_layers = DRAFT_LAYERS
    model.save_pretrained(draft)
    AutoTokenizer.from_pretrained(folder).save_pretrained(draft)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    from .published import PUBLISHED, write_model

    parser.add_argument("name", choices=[*SHAPES, *PUBLISHED])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokenizer", type=Path, metavar="FILE", help="a tokenizer.json to take in place of one made")
    parser.add_argument("--control-token", action="append", default=[], metavar="TEXT", help="add it to that one")
    parser.add_argument("--draft", type=Path, metavar="FOLDER", help="write a draft model there too")
    parser.add_argument("--random", action="store_true", help="write a published shape without weights")
    args = parser.parse_args()
    if args.random != (args.name in PUBLISHED):
        parser.error(f"--random goes with {', '.join(PUBLISHED)}, and those go with it")
    if args.random and (args.tokenizer is not None or args.draft is not None):
        parser.error("--random writes neither a given tokenizer nor a draft model")
    if args.control_token and args.tokenizer is None:
        parser.error("--control-token goes with --tokenizer")
    if args.folder.exists() and any(args.folder.iterdir()):
        print(f"{args.folder} exists and is not empty; left as it is", file=sys.stderr)
        return 1
    try:
        if args.random:
            write_model(args.name, args.folder, seed=args.seed)
        else:
            make_model(args.name, args.folder, args.seed, args.tokenizer, args.control_token)
        if args.draft is not None:
            make_draft(args.folder, args.draft)
    except ValueError as error:
        print(f"make_model: {error}", file=sys.stderr)
        return 1
    print(f"wrote {args.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
