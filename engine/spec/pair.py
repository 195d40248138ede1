"""A draft model for a model: loaded, and refused where its tokens are others."""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import ConfigError, ModelError
from ..models import CausalLM
from ..models.load import load_model

FIELD, FILE = "speculative_config", "tokenizer.json"


def load_draft(folder: Path, target_folder: Path, target: CausalLM) -> CausalLM:
    """The model of `folder`, in the dtype and on the device of `target`, that of `target_folder`.

    Raises ConfigError where its vocabulary is another: an id must be the same text in both. Rows that no token has may
    differ in number; without a tokenizer in either folder all that can be compared is their number.
    """
    if not (folder / "config.json").is_file():
        raise ConfigError(FIELD, f"has {str(folder)!r} as model", "a folder with a config.json and safetensors")
    mine, theirs = _vocabulary(target_folder), _vocabulary(folder)
    if mine is not None and theirs is not None:
        _compare(mine, theirs, folder)
    try:
        dtype = str(target.dtype).removeprefix("torch.")
        draft = load_model(folder, dtype=dtype, device=target.device)
    except ModelError as error:
        raise ConfigError(FIELD, f"has a draft model that cannot be loaded: {error}", "one that can") from error
    if (mine is None or theirs is None) and draft.vocab_size != target.vocab_size:
        found = f"has {folder} as draft model, whose vocabulary has {draft.vocab_size} tokens"
        raise ConfigError(FIELD, found, f"one of the model's own {target.vocab_size}")
    return draft


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
