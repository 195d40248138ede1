"""The tokenizer: a byte-level BPE trained on the very text the model is trained on.

How text is cut before merging is chosen for a small model that must copy: digits stand alone, and a word with a
capital never joins the space before it, so that a name or a number is the same tokens wherever it stands, in a sentence
or between quotes. The space is no token of its own after punctuation, which takes it instead.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from .presets import MAX_POSITION, VOCAB

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MARKUP = ("<tools>", "</tools>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>",
          "<think>", "</think>")  # fmt: skip
TEMPLATE = Path(__file__).resolve().parents[1] / "template.jinja"
PIECES = "|".join(
    (
        r"['’](?:s|t|re|ve|m|ll|d)(?!\p{L})",
        r" ?I(?!\p{L})",  # the one word that is mostly a capital in the middle of a sentence
        r"[ _]?[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
        r"[\p{Lu}\p{Lt}]+(?!\p{Ll})",
        r"[\p{Lu}\p{Lt}][\p{Ll}\p{M}]*",
        r"\p{N}",
        r" ?[^\s\p{L}\p{N}]+(?: [^\s\p{L}\p{N}]+)*(?: (?=[\p{Lu}\p{Lt}]))?",  # `": "` and `", "` of JSON are one
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)


def train(texts: Iterable[str], vocab: int = VOCAB) -> Tokenizer:
    """vocab: entries in all, with the 256 bytes and the control tokens. Raises ValueError if the text is too little."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PIECES), behavior="isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[*SPECIAL, *MARKUP],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_without_control(texts), trainer)
    if bpe.get_vocab_size() != vocab:
        raise ValueError(
            f"the text gives a vocabulary of {bpe.get_vocab_size()}; expected {vocab}: more text is needed"
        )
    described = json.loads(bpe.to_str())
    for token in described["added_tokens"]:
        token["special"] = token["content"] in SPECIAL  # markup stays in the text: parsers of tool calls read it
    return Tokenizer.from_str(json.dumps(described))


def load(folder: Path) -> Tokenizer:
    """The tokenizer of an exported model."""
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """tokenizer.json, its settings and the chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": MAX_POSITION,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(TEMPLATE.read_text(encoding="utf-8"), encoding="utf-8")


def _without_control(texts: Iterable[str]) -> Iterator[str]:
    """Text between control tokens, which are no text."""
    control = re.compile("|".join(map(re.escape, (*SPECIAL, *MARKUP))))
    for text in texts:
        yield from filter(None, control.split(text))
