"""The model's tokenizer: text to ids and back, and which ids are control tokens.

A control token is an added token that steers the model rather than spells text: every one marked special, and those
that look like markup (`<think>`, `[INST]`, `<|im_end|>`). Added tokens that are plain text, such as runs of spaces in
some vocabularies, are not.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from ..engine import tokens
from ..engine.errors import ModelError

MANY = 1000  # ids
_ANCHOR = f"\U000f5afe{secrets.token_hex(16)}"  # what nobody can write: stands before text inside a prompt


class Tokenizer:
    """Reads tokenizer.json and what stands around it in a model folder."""

    def __init__(self, description: str, settings: dict[str, Any] | None = None, eos_ids: tuple[int, ...] = ()):
        """description: the text of tokenizer.json; settings: tokenizer_config.json; eos_ids: further ends of text."""
        self._backend = _whole(Backend.from_str(description))
        self.settings = settings or {}
        added = self._backend.get_added_tokens_decoder()
        self.vocab_size = max(self._backend.get_vocab_size(), max(added, default=-1) + 1)
        self.special_ids = frozenset(i for i, t in added.items() if t.special)
        self.control = {t.content: i for i, t in added.items() if t.special or tokens.is_markup(t.content)}
        self.control_ids = frozenset(self.control.values())
        self.special = {t: i for t, i in self.control.items() if i in self.special_ids}
        self._added = {i: t.content for i, t in added.items()}
        self._strips = {i: (t.lstrip, t.rstrip) for i, t in added.items()}
        self._plain = _without(description, self.control)
        self.bos_id = self.id_of(self.named("bos_token"))
        own_eos = self.id_of(self.named("eos_token"))
        self.eos_ids = tuple(dict.fromkeys((*eos_ids, *(() if own_eos is None else (own_eos,)))))
        kind = json.loads(description)
        unknown = kind["model"].get("unk_id", self.id_of(kind["model"].get("unk_token")))
        self._unknown: int | None = unknown  # of text that the vocabulary cannot spell
        self._byte_level = tokens.is_byte_level(kind)
        self.byte_fallback = tokens.has_byte_fallback(kind)

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Raises ModelError naming the file that is missing or broken."""
        path, description = folder / "tokenizer.json", tokens.description_of(folder)
        settings = tokens.settings_of(folder)
        if templates := _template_files(folder):
            settings["chat_template"] = templates
        ends = tokens.configured_ends(folder)
        try:
            return cls(description, settings, ends)
        except Exception as error:  # the library raises bare Exception
            raise ModelError(f"{path}: cannot be read as a tokenizer ({error})") from None

    def named(self, name: str) -> str | None:
        """A token by its role in the settings: bos_token, eos_token, pad_token, unk_token ..."""
        return tokens.named(self.settings, name)

    def id_of(self, text: str | None) -> int | None:
        return None if text is None else self._backend.token_to_id(text)

    @property
    def templates(self) -> dict[str, str]:
        """Chat templates by name. Raises ModelError where the settings hold something else."""
        return _templates(self.settings.get("chat_template"))

    @property
    def chat_template(self) -> str | None:
        return self.templates.get("default")

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Ids of `text`, in which control tokens may be spelled."""
        return _encoded(self._backend, text, add_special_tokens)

    def encode_content(self, text: str, *, first: bool) -> list[int]:
        """Ids of text in which nothing is a control token, but for the unknown token where the vocabulary has no way to
        spell a character. first: it begins the prompt (some vocabularies then put a space before it)."""
        if not text:
            return []
        if first:
            return _encoded(self._plain, text, False)
        return _encoded(self._plain, _ANCHOR + text, False)[1:]

    def encode_between(self, text: str, controls: list[tuple[int, int]]) -> list[int]:
        """Ids of text in which the control tokens are those that stand at (begin, end), and no others."""
        ids: list[int] = []
        at = 0
        for begin, end in controls:
            token = self.control[text[begin:end]]
            left, right = self._strips[token]
            between = text[at:begin]
            ids += self.encode_content(between.rstrip() if left else between, first=at == 0)
            ids.append(token)
            at = end
            if right:
                at += len(text[end:]) - len(text[end:].lstrip())
        return ids + self.encode_content(text[at:], first=at == 0)

    def controls_in(self, ids: list[int]) -> list[int]:
        """The control tokens among ids, but for the unknown token, which any text may need."""
        return [i for i in ids if i in self.control_ids and i != self._unknown]

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        if len(ids) > MANY:  # a batch lets other threads run meanwhile; a few ids are quicker alone
            return self._backend.decode_batch([ids], skip_special_tokens=skip_special_tokens)[0]
        return self._backend.decode(ids, skip_special_tokens=skip_special_tokens)

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one token stands for, which may be a part of a character."""
        if token in self._added:
            return self._added[token].encode()
        piece = self._backend.id_to_token(token)
        if piece is None:
            return b""
        return tokens.spell(piece, byte_level=self._byte_level)

    def token_text(self, token: int) -> str:
        """One token as text; bytes that are no whole character show as U+FFFD."""
        return self.token_bytes(token).decode(errors="replace")

    def knows(self, token: int) -> bool:
        """Whether an id has text at all: models have more rows than their vocabulary has tokens."""
        return self._backend.id_to_token(token) is not None

    def is_byte(self, token: int) -> bool:
        """Whether a token is a single byte of a byte-fallback vocabulary."""
        piece = self._backend.id_to_token(token) if self.byte_fallback else None
        return piece is not None and tokens.is_byte(piece)


def _encoded(backend: Backend, text: str, add_special_tokens: bool) -> list[int]:
    """As a batch of one: unlike `encode`, that lets other threads run meanwhile."""
    ids: list[int] = backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids
    return ids


def _whole(backend: Backend) -> Backend:
    """Some files ask for prompts to be cut or filled up to a length, a setting of the model's training."""
    backend.no_truncation()
    backend.no_padding()
    return backend


def _without(description: str, control: dict[str, int]) -> Backend:
    """The same tokenizer, its control tokens under names that nobody can write, so that their text is text; and with
    the anchor."""
    parts = json.loads(description)
    hidden = {text: f"{token}{_ANCHOR}" for text, token in control.items()}
    _hide(parts["model"], hidden)
    parts["added_tokens"] = [
        {**t, "content": hidden[t["content"]], "special": False, "normalized": False} if t["content"] in hidden else t
        for t in parts.get("added_tokens") or []
    ]
    parts["post_processor"] = None
    backend = _whole(Backend.from_str(json.dumps(parts)))
    backend.add_special_tokens([AddedToken(_ANCHOR, normalized=False, special=True)])
    return backend


def _hide(model: dict[str, Any], hidden: dict[str, str]) -> None:
    """Rename tokens in the vocabulary of a model, and forget the merges that lead to them or on from them."""
    vocab = model["vocab"]
    if isinstance(vocab, list):  # Unigram: [text, score]
        model["vocab"] = [[hidden.get(text, text), score] for text, score in vocab]
        return
    model["vocab"] = {hidden.get(text, text): token for text, token in vocab.items()}
    if model.get("unk_token") in hidden:
        model["unk_token"] = hidden[model["unk_token"]]
    if "merges" in model:
        prefix = model.get("continuing_subword_prefix") or ""
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        model["merges"] = [(a, b) for a, b in pairs if hidden.keys().isdisjoint((a, b, a + b.removeprefix(prefix)))]


def _templates(found: Any) -> dict[str, str]:
    """Chat templates by name, as the settings hold them; one without a name is "default"."""
    if isinstance(found, list) and all(isinstance(one, dict) for one in found):
        found = {one.get("name"): one.get("template") for one in found}
    named = found if isinstance(found, dict) else {} if found is None else {"default": found}
    if not all(isinstance(text, str) for pair in named.items() for text in pair):
        raise ModelError("tokenizer_config.json: chat_template is neither text nor a list of names and templates")
    return {name: text for name, text in named.items() if text}


def _template_files(folder: Path) -> dict[str, str]:
    """Chat templates in files of their own, which go before that of the settings."""
    paths = {"default": folder / "chat_template.jinja"}
    paths |= {path.stem: path for path in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    found = {}
    for name, path in paths.items():
        if path.is_file():
            try:
                found[name] = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ModelError(f"{path}: cannot be read as text ({error})") from None
    return found
