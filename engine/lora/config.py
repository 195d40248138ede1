"""Reading adapter_config.json so that nothing in it is ignored.

A reader takes the fields it honours, or says of others which values change nothing. Whatever is left and is not null is
an error: it may change what the adapter does. What the fields mean is told by peft's documentation of LoraConfig and
IA3Config; the rules by which patterns match modules are peft's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import regex

from ..errors import RequestError
from .tensors import open_regular

NAME = "adapter_config.json"
LONGEST = 4 * 2**20  # bytes
PATIENCE = 3.0  # seconds for all patterns of a config; one can be made to take for ever
LONGEST_PATTERN = 20_000  # characters
MOST_ALPHA = 65504  # the largest float16: with any rank its scale is finite in whatever a model computes in

# Names, versions and settings of the training: nothing of the forward pass.
HARMLESS = frozenset(
    """
    auto_mapping peft_version base_model_name_or_path revision inference_mode fan_in_fan_out
    """.split()
)  # fan_in_fan_out tells how the base keeps its weights, which is known here; peft itself corrects it by the module

TASKS = ("CAUSAL_LM", "FEATURE_EXTRACTION")  # tasks that add no modules of their own

_REQUIRED = object()


def read_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json of a folder. Raises RequestError naming what is wrong with it."""
    with open_regular(folder / NAME) as file:
        text = bytearray()
        while (more := file.read(2**20)) and len(text) <= LONGEST:
            text += more
    if len(text) > LONGEST:
        raise RequestError(f"{NAME} is longer than {LONGEST:,} bytes; expected at most that", param="path")
    try:
        config = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{NAME} is no JSON ({type(error).__name__})", param="path") from None
    if not isinstance(config, dict):
        raise RequestError(f"{NAME} holds a {type(config).__name__}; expected an object", param="path")
    return config


def refuse(field: str, value: Any, expected: str) -> RequestError:
    shown = repr(value)
    shown = shown if len(shown) <= 200 else shown[:200] + "..."
    return RequestError(f"{NAME}: {field} is {shown}; expected {expected}", param=field)


class Fields:
    """The fields of one adapter_config.json, each taken once; `finish` names those nobody took. Null is absent."""

    def __init__(self, config: Mapping[str, Any]):
        self.patience = Patience()
        self.base_name = self._text(config.get("base_model_name_or_path"))
        self._left = {k: v for k, v in config.items() if k not in HARMLESS and v is not None}

    def take(self, name: str, default: Any = _REQUIRED) -> Any:
        value = self._left.pop(name, default)
        if value is _REQUIRED:
            raise RequestError(f"{NAME}: {name} is missing or null; expected a value", param=name)
        return value

    def number(self, name: str, default: Any = _REQUIRED) -> float:
        return number(name, self.take(name, default))

    def rank(self, name: str, most: int, default: Any = _REQUIRED) -> int:
        return rank(name, self.take(name, default), most)

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.take(name, default)
        if not isinstance(value, bool):
            raise refuse(name, value, "true or false")
        return value

    def one_of(self, name: str, choices: tuple[Any, ...], default: Any = _REQUIRED) -> Any:
        value = self.take(name, default)
        if not isinstance(value, str | bool) or value not in choices:
            raise refuse(name, value, "one of " + ", ".join(json.dumps(choice) for choice in choices))
        return value

    def patterns(self, name: str) -> list[str] | str | None:
        """A list of ends of module paths, or one regular expression; None where it is absent or empty."""
        value = self.take(name, None)
        if value is None or isinstance(value, str):
            return value or None
        return self._strings(name, value) or None

    def matcher(self, name: str) -> Pattern | list[str] | None:
        """The same with the expression compiled."""
        found = self.patterns(name)
        return Pattern(name, found, self.patience) if isinstance(found, str) else found

    def strings(self, name: str) -> list[str]:
        return self._strings(name, self.take(name, []))

    def table(self, name: str) -> list[tuple[Pattern, Any]]:
        """An object whose keys are patterns of the ends of paths."""
        value = self.take(name, {})
        if not isinstance(value, dict):
            raise refuse(name, value, "an object of module patterns")
        return [(Pattern(name, key, self.patience, end=True), v) for key, v in value.items()]

    def off(self, names: Iterable[str], why: str) -> None:
        """Fields that are not honoured: they must be null, false or empty."""
        for name in names:
            value = self.take(name, None)
            if value is not None and value is not False and value != [] and value != {} and value != "":
                raise refuse(name, value, f"none: {why}")

    def skip(self, names: Iterable[str]) -> None:
        """Fields without effect here."""
        for name in names:
            self._left.pop(name, None)

    def finish(self) -> None:
        for name in sorted(self._left):
            raise RequestError(
                f"{NAME}: {name} is not known and may change what the adapter does; expected it to be absent or null",
                param=name,
            )

    @staticmethod
    def _strings(name: str, value: Any) -> list[str]:
        if not isinstance(value, list) or not all(isinstance(v, str) and v for v in value):
            raise refuse(name, value, "a list of strings")
        return value

    @staticmethod
    def _text(value: Any) -> str | None:
        return value if isinstance(value, str) and value else None


def number(name: str, value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) <= MOST_ALPHA:
        raise refuse(name, value, f"a number of at most {MOST_ALPHA}")
    return float(value)


def rank(name: str, value: Any, most: int) -> int:
    if type(value) is not int or not 1 <= value <= most:
        raise refuse(name, value, f"a rank from 1 to {most} (the largest that is served)")
    return value


class Patience:
    """The seconds that are left for the patterns of one config."""

    def __init__(self, seconds: float = PATIENCE):
        self.left = seconds


class Pattern:
    """A regular expression of a field, for whole paths; end: for their ends, from a dot on. Matching frees the GIL."""

    def __init__(self, field: str, text: str, patience: Patience, *, end: bool = False):
        self.field, self.text, self._patience = field, text, patience
        if len(text) > LONGEST_PATTERN:
            raise refuse(field, text, f"a regular expression of at most {LONGEST_PATTERN:,} characters")
        try:
            regex.compile(text)  # by itself, so that brackets of our own close nothing of it
            self._compiled = regex.compile(rf"(.*\.)?({text})" if end else text)
        except (regex.error, RecursionError, OverflowError, ValueError) as error:
            raise refuse(field, text, f"a regular expression ({error})") from None

    def __call__(self, path: str) -> bool:
        began = time.monotonic()
        try:
            found = self._compiled.fullmatch(path, timeout=max(self._patience.left, 0.001), concurrent=True)
        except TimeoutError:
            raise refuse(
                self.field, self.text, f"regular expressions that match all modules within {PATIENCE} s"
            ) from None
        self._patience.left -= time.monotonic() - began
        return found is not None


def ends(path: str, patterns: Iterable[str]) -> bool:
    """Whether a path is one of these or ends in one of them, after a dot."""
    return any(path == p or path.endswith("." + p) for p in patterns)


class Targets:
    """Which modules an adapter changes: target_modules, exclude_modules, layers_to_transform and layers_pattern.

    modules_to_save wins over all of them.
    """

    def __init__(self, fields: Fields, saved: Iterable[str]):
        self._saved = [f".{name}." for name in saved]
        self._exclude = fields.matcher("exclude_modules")
        wanted = fields.patterns("target_modules")
        self._all = isinstance(wanted, str) and wanted.lower() == "all-linear"
        self._wanted = Pattern("target_modules", wanted, fields.patience) if isinstance(wanted, str) else wanted
        if self._wanted is None:
            raise RequestError(
                f"{NAME}: target_modules is missing or empty; expected the modules that the adapter changes",
                param="target_modules",
            )
        layers = fields.take("layers_to_transform", [])
        layers = [layers] if type(layers) is int else layers
        if not isinstance(layers, list) or not all(type(n) is int for n in layers):
            raise refuse("layers_to_transform", layers, "layer numbers")
        parents = fields.patterns("layers_pattern")
        parents = [parents] if isinstance(parents, str) else parents or []
        if isinstance(wanted, str) and (layers or parents):
            name = "layers_to_transform" if layers else "layers_pattern"
            raise refuse(name, layers or parents, "none where target_modules is a string")
        if parents and not layers:
            raise refuse("layers_pattern", parents, "none where there is no layers_to_transform")
        self._layers = layers
        self._parents = [Pattern("layers_pattern", text, fields.patience, end=True) for text in parents]

    def __call__(self, path: str, *, linear: bool, head: bool) -> bool:
        """path: of transformers' model. linear, head: whether it is a linear layer, and the one that gives logits."""
        if self._excluded(path):
            return False
        if self._all:
            return linear and not head
        if isinstance(self._wanted, Pattern):
            return self._wanted(path)
        assert self._wanted is not None
        if path in self._wanted:
            return True
        return ends(path, self._wanted) and (not self._layers or self._layer(path) in self._layers)

    def _excluded(self, path: str) -> bool:
        if isinstance(self._exclude, Pattern) and self._exclude(path):
            return True
        if isinstance(self._exclude, list) and ends(path, self._exclude):
            return True
        return any(saved in f".{path}." for saved in self._saved)

    def _layer(self, path: str) -> int | None:
        """The layer that a path tells: its first number, or the number after one of layers_pattern."""
        if not self._parents:
            found = regex.match(r".*?\.[^.]*\.(\d+)\.", path)
            return int(found[1]) if found else None
        parts = path.split(".")
        for pattern in self._parents:
            for i in range(1, len(parts) - 1):
                if parts[i].isdigit() and pattern(".".join(parts[:i])):
                    return int(parts[i])
        return None
