"""Whether two models speak of the same tokens."""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import ConfigError
from ..models import CausalLM
from .maker import FIELD

FILE = "tokenizer.json"


def compare(folder: Path, draft: CausalLM, target_folder: Path, target: CausalLM) -> None:
    """Raises ConfigError where the vocabulary of the draft model in `folder` is another: an id must be the same text in
    both. Rows that no token has may differ in number; without a tokenizer in either folder all that can be compared is
    their number."""
    mine, theirs = _vocabulary(target_folder), _vocabulary(folder)
    if mine is not None and theirs is not None:
        _compare(mine, theirs, folder)
    elif draft.vocab_size != target.vocab_size:
        found = f"has {folder} as draft model, whose vocabulary has {draft.vocab_size} tokens"
        raise ConfigError(FIELD, found, f"one of the model's own {target.vocab_size}")


def _vocabulary(folder: Path) -> dict[str, int] | None:
    """Text of each token, as the tokenizer spells it -> id. None: the folder has no such file."""
    try:
        found = json.loads((folder / FILE).read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ConfigError(
            FIELD, f"cannot read {folder / FILE}: {error}", "a tokenizer of the tokenizers library"
        ) from None
    vocab = found.get("model", {}).get("vocab", {})
    if isinstance(vocab, list):  # of a unigram model: text and score, in the order of the ids
        vocab = {text: id_ for id_, (text, _) in enumerate(vocab)}
    return dict(vocab) | {token["content"]: token["id"] for token in found.get("added_tokens", ())}


def _compare(mine: dict[str, int], theirs: dict[str, int], folder: Path) -> None:
    if mine == theirs:
        return
    by_id = {id_: text for text, id_ in mine.items()}, {id_: text for text, id_ in theirs.items()}
    id_ = min(i for i in by_id[0].keys() | by_id[1].keys() if by_id[0].get(i) != by_id[1].get(i))
    here, there = (repr(found[id_]) if id_ in found else "not there" for found in by_id)
    found = f"has {folder} as draft model, whose token {id_} is {there} and the model's {here}"
    raise ConfigError(FIELD, found, "a draft model of the same vocabulary")
