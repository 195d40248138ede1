"""What the files of a tokenizer say of its tokens: which are control tokens, what bytes they spell, which end a text.

Pure: both processes read vocabularies, and must not read them differently.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import ModelError

_MARKUP = re.compile(r"[<\[{|].*[>\]}|]", re.DOTALL)
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def is_markup(text: str) -> bool:
    """Whether an added token looks like one that steers the model: `<think>`, `[INST]`, `<|im_end|>`."""
    return _MARKUP.fullmatch(text) is not None and not is_byte(text)


def is_byte(piece: str) -> bool:
    """Whether a piece is a single byte of a byte-fallback vocabulary: `<0x0A>`."""
    return _BYTE.fullmatch(piece) is not None


def is_byte_level(description: Mapping[str, Any]) -> bool:
    """description: tokenizer.json."""
    return '"ByteLevel"' in _shape(description)


def has_byte_fallback(description: Mapping[str, Any]) -> bool:
    return '"ByteFallback"' in _shape(description)


def is_sentencepiece(description: Mapping[str, Any]) -> bool:
    """Whether a space is written as U+2581."""
    return has_byte_fallback(description) or '"Metaspace"' in _shape(description)


def _shape(description: Mapping[str, Any]) -> str:
    return json.dumps([description.get("decoder"), description.get("pre_tokenizer")])


def spell(piece: str, *, byte_level: bool) -> bytes:
    """The bytes of a piece of the vocabulary as it stands in tokenizer.json."""
    if byte_level:
        return b"".join([BYTE_LEVEL.get(c, c.encode()) for c in piece])
    if found := _BYTE.fullmatch(piece):
        return bytes([int(found[1], 16)])
    return piece.replace("\u2581", " ").encode()


def _byte_level_table() -> dict[str, bytes]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): bytes([b]) for b in printable} | {chr(0x100 + i): bytes([b]) for i, b in enumerate(others)}


BYTE_LEVEL = _byte_level_table()  # character -> byte: printable bytes stand for themselves, the rest from U+0100 on


# ---------------------------------------------------------------- a model folder


def settings_of(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json and special_tokens_map.json. Where they differ, as in transformers, the map counts unless
    the settings are of the newer kind, that needs none. Raises ModelError naming a file."""
    settings = read_object(folder / "tokenizer_config.json")
    roles = read_object(folder / "special_tokens_map.json")
    return {**roles, **settings} if "added_tokens_decoder" in settings else {**settings, **roles}


def description_of(folder: Path) -> str:
    """The text of tokenizer.json, with the tokens that only the files beside it name, as transformers adds them: those
    of added_tokens_decoder or else added_tokens.json, and those with a role. Not those that the model has no row for.

    Raises ModelError naming the file that is missing or broken, or has a token that cannot get the id it says.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelError(f"{path}: not found; expected the tokenizer of the model in this file")
    rows = read_object(folder / "config.json").get("vocab_size")
    beside = _named(folder)
    try:
        text = path.read_text(encoding="utf-8")
        parts = json.loads(text)
        listed = parts.get("added_tokens") or []
        there = {token["content"]: token["id"] for token in listed}
        vocab = parts["model"].get("vocab") or {}
        if isinstance(vocab, list):  # Unigram: [text, score]
            vocab = {piece: token for token, (piece, _) in enumerate(vocab)}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: cannot be read as a tokenizer ({error!r:.200})") from None
    more = []
    for content, (said, flags) in beside.items():
        if content in there or not content or (content in vocab and not is_markup(content)):
            continue
        own = vocab.get(content, max(len(vocab), max(there.values(), default=-1) + 1))
        if isinstance(rows, int) and rows <= (own if said is None else said):
            continue
        if said not in (None, own):
            raise ModelError(f"{path}: {content!r} has the id {said} in a file beside it, and would get {own}")
        there[content] = own
        more.append({"id": own, "content": content, **flags})
    return json.dumps({**parts, "added_tokens": [*listed, *more]}, ensure_ascii=False) if more else text


def _named(folder: Path) -> dict[str, tuple[int | None, dict[str, bool]]]:
    """Text of a token -> its id, if a file beside tokenizer.json gives it one, and its flags as tokenizer.json has
    them."""
    settings = settings_of(folder)
    roles = [value for name, value in settings.items() if name.endswith("_token")]
    for name in ("additional_special_tokens", "extra_special_tokens"):
        more = settings.get(name) or []
        roles += more.values() if isinstance(more, dict) else more if isinstance(more, list) else []
    special = {content: token for token in roles if (content := _content(token)) is not None}
    decoder = settings.get("added_tokens_decoder")
    if decoder is None:
        listed: list[tuple[Any, Any]] = [(i, text) for text, i in read_object(folder / "added_tokens.json").items()]
    else:
        listed = list(decoder.items()) if isinstance(decoder, dict) else []
    found: dict[str, tuple[int | None, dict[str, bool]]] = {}
    try:
        for said, token in sorted((int(said), token) for said, token in listed):
            if (content := _content(token)) is not None:
                found[content] = said, _flags(token, special=content in special)
    except (TypeError, ValueError):
        raise ModelError(f"{folder}: added_tokens_decoder or added_tokens.json has an id that is no number") from None
    return found | {text: (None, _flags(token, special=True)) for text, token in special.items() if text not in found}


def _content(token: Any) -> str | None:
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def _flags(token: Any, *, special: bool) -> dict[str, bool]:
    given = token if isinstance(token, dict) else {}
    special = special or given.get("special") is True
    ways = {name: given.get(name) is True for name in ("single_word", "lstrip", "rstrip")}
    return {**ways, "normalized": bool(given.get("normalized", not special)), "special": special}


def named(settings: Mapping[str, Any], role: str) -> str | None:
    """A token by its role in the settings: bos_token, eos_token, pad_token, unk_token ..."""
    found = settings.get(role)
    return found.get("content") if isinstance(found, dict) else found


def configured_ends(folder: Path) -> tuple[int, ...]:
    """Ids that end a text, as the model's configuration has them; the tokenizer's eos_token is one more. Raises
    ModelError naming a broken file, or an id that the vocabulary of config.json has not."""
    ends: list[int] = []
    size = read_object(folder / "config.json").get("vocab_size")
    most = size if isinstance(size, int) else 1 << 31
    for file in ("generation_config.json", "config.json"):
        found = read_object(folder / file).get("eos_token_id")
        for end in found if isinstance(found, list) else [] if found is None else [found]:
            if type(end) is not int or not 0 <= end < most:
                expected = f"ids from 0 to {most - 1}: vocab_size is {size}"
                raise ModelError(f"{folder / file}: eos_token_id has {end!r:.200}; expected {expected}")
            ends.append(end)
    return tuple(dict.fromkeys(ends))


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; an absent file is an empty one. Raises ModelError naming the file."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(found, dict):
        raise ModelError(f"{path}: holds a {type(found).__name__}; expected an object")
    return found
