"""Every flag of `quire serve`, as data: name, type, default, where it goes, what it means.

Each has an environment twin: `--max-model-len` is `QUIRE_MAX_MODEL_LEN`; the flag wins. docs/flags.md is printed from
this table.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from ..engine.config import Speculation
from ..engine.errors import ConfigError, QuireError
from . import reasoning
from .config import LEAST_WEIGHT, MOST_WEIGHT, LoraModule
from .tools import PARSERS


def size(text: str) -> int:
    """Bytes: a whole number, or one with K, M, G or T (powers of 1024): `512M`, `1.5G`."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    digits = text.strip().upper().removesuffix("B").removesuffix("I")
    unit = units.get(digits[-1:], 1)
    number = float(digits.rstrip("KMGT") if unit > 1 else digits)
    if number != number or number < 0:
        raise ValueError(text)
    return int(number * unit)


def switch(text: str) -> bool:
    """A yes or no in an environment variable."""
    known = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if text.strip().lower() not in known:
        raise ValueError(text)
    return known[text.strip().lower()]


def pairs(text: str) -> dict[str, str]:
    """NAME=VALUE, and more behind commas."""
    found = [(name.strip(), value.strip()) for name, _, value in (one.partition("=") for one in text.split(","))]
    if not all(name and value for name, value in found) or len(dict(found)) < len(found):
        raise ValueError(text)
    return dict(found)


def key(text: str) -> str:
    """An API key. An empty one, as of a variable that is not set, would open the server to everyone."""
    if not text.strip():
        raise ValueError(text)
    return text.strip()


def lora_module(text: str) -> LoraModule:
    """An adapter: name=path, or a JSON object with name, path and perhaps base_model_name and weight."""
    if not text.lstrip().startswith("{"):
        name, _, path = text.partition("=")
        if not name.strip() or not path.strip():
            raise ValueError(text)
        return LoraModule(name.strip(), path.strip())
    given = {key: value for key, value in json.loads(text).items() if value is not None}
    if not {"name", "path"} <= given.keys() <= {"name", "path", "base_model_name", "weight"}:
        raise ValueError(text)
    weight = given.pop("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not LEAST_WEIGHT <= weight <= MOST_WEIGHT:
        raise ValueError(text)
    if not all(isinstance(value, str) and value for value in given.values()):
        raise ValueError(text)
    return LoraModule(**given, weight=float(weight))


def speculation(text: str) -> Speculation:
    """A JSON object under vLLM's names."""
    try:
        return msgspec.json.decode(text, type=Speculation)
    except msgspec.MsgspecError as error:
        expected = 'a JSON object such as {"method": "ngram", "num_speculative_tokens": 8}'
        raise ConfigError("--speculative-config", f"is {text!r}: {error}", expected) from None


def words(text: str) -> list[str]:
    """The values of a flag that may be given more than once, as its variable holds them."""
    return text.replace(",", " ").split()


def words_or_json(text: str) -> list[str]:
    """The same, where a value may be a JSON object: then one, or a JSON list of them."""
    if text.lstrip()[:1] not in ("{", "["):
        return words(text)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return [text]  # `parse` refuses it
    return [json.dumps(one) for one in found] if isinstance(found, list) else [text]


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag. `field`: the name in ServerConfig or EngineConfig, or for the command line itself."""

    name: str
    parse: Callable[[str], Any]
    default: Any
    help: str
    field: str = ""
    many: bool = False
    choices: tuple[str, ...] = ()
    expected: str = ""
    split: Callable[[str], list[str]] = words  # where many: the values in its variable

    @property
    def dest(self) -> str:
        return self.name.removeprefix("--").removeprefix("no-").replace("-", "_")

    @property
    def env(self) -> str:
        return "QUIRE_" + self.dest.upper()

    @property
    def target(self) -> str:
        return self.field or self.dest


SERVER = [
    Flag("--host", str, "127.0.0.1", "address to listen on"),
    Flag("--port", int, 8000, "port to listen on; 0: any free one"),
    Flag("--api-key", key, (), "key a client must send; may be given more than once", field="api_keys", many=True,
         expected="a key that is not empty"),
    Flag("--admin-key", key, (), "key for what changes the server (loading and unloading adapters); may be given more "
         "than once", field="admin_keys", many=True, expected="a key that is not empty"),
    Flag("--served-model-name", str, (), "name(s) clients ask for; default: the folder's name",
         field="served_model_names", many=True),
    Flag("--allowed-origins", str, ("*",), "origins that browsers may call from", field="cors_origins", many=True),
    Flag("--chat-template", str, None, "file with a chat template used instead of the model's own"),
    Flag("--tool-call-parser", str, "auto", "how calls of tools are written: a name (quire check-template lists them), "
         "auto (as the chat template shows) or none", choices=("auto", "none", *PARSERS)),
    Flag("--reasoning-parser", str, "auto", "how thoughts are marked: a name, auto (as the template shows) or none",
         choices=("auto", *reasoning.NAMES)),
    Flag("--lora-modules", lora_module, (), "adapters loaded at the start, each NAME=PATH or JSON with name and path; "
         "PATH: a folder, or with --lora-hub a hub name", many=True, split=words_or_json,
         expected=f"NAME=PATH, or a JSON object with name, path and perhaps base_model_name and weight ({LEAST_WEIGHT} "
                  f"to {MOST_WEIGHT:g})"),
    Flag("--lora-dir", str, None, "folder of adapters, each loaded on first use by the name of its folder"),
    Flag("--lora-hub", switch, False, "let adapters be fetched from the hub, also by requests that name them"),
    Flag("--max-body-size", size, 32 * 2**20, "largest request body, bytes", field="max_body_bytes",
         expected="a size such as 32M"),
    Flag("--max-requests", int, 1024, "requests in flight; one more is answered 429"),
    Flag("--generation-config", str, "auto", "sampling defaults from generation_config.json (auto) or none",
         choices=("auto", "none")),
    Flag("--drain-timeout", float, 30.0, "seconds that running streams get to finish after SIGTERM"),
    Flag("--seed", int, None, "makes requests without a seed repeatable: their seeds are drawn from this one"),
]  # fmt: skip

ENGINE = [
    Flag("--dtype", str, "auto", "auto | float32 | bfloat16 | float16; on a CPU what weights are "
         "kept in, and products are computed in float32", choices=("auto", "float32", "bfloat16", "float16")),
    Flag("--quantization", str, None, "int8 | int4 | fp8 (on CUDA alone): weights in so many bits, at load (the head "
         "in int8)", choices=("int8", "int4", "fp8")),
    Flag("--deterministic", switch, False, "the same answer under any load on CUDA too, where that is slower; on a CPU "
         "it is always so"),
    Flag("--device", str, "auto", "auto | cpu | cuda | cuda:N"),
    Flag("--attention", str, "auto", "native (C++, the CPU) | torch | triton (CUDA)",
         choices=("auto", "native", "torch", "triton")),
    Flag("--kv-cache-dtype", str, "auto", "what keys and values are kept in: what the model computes in (the dtype; "
         "on a CPU float32), bfloat16 (CPU), int8, fp8 (CUDA); auto: the first, but on a CPU bfloat16 beside weights "
         "that are quantized", choices=("auto", "float32", "bfloat16", "float16", "int8", "fp8")),
    Flag("--max-model-len", int, None, "tokens a sequence may reach, prompt included; default: the model's own"),
    Flag("--max-num-seqs", int, 256, "sequences in one step"),
    Flag("--max-num-batched-tokens", int, None, "tokens computed in one step [2048 on CUDA, 512 on a CPU]"),
    Flag("--prompt-chunk", int, None, "tokens of prompts in a step in which others get their next token: fewer, and "
         "streams wait less while a prompt comes in [256 on CUDA, 64 on a CPU]"),
    Flag("--max-waiting", int, 4096, "sequences that may queue; one more is answered 429"),
    Flag("--kv-cache-memory", size, None, "bytes for the page pool, e.g. 2G; default: measured from free memory",
         expected="a size such as 2G"),
    Flag("--gpu-memory-utilization", float, None,
         "share of the free memory the page pool may take [0.9 on CUDA, 0.5 on a CPU]",
         field="memory_utilization"),
    Flag("--no-prefix-caching", switch, True, "switch the prefix cache off (for measuring it), as "
         "QUIRE_PREFIX_CACHING=0 does", field="prefix_caching"),
    Flag("--enforce-eager", switch, False, "no CUDA graphs: all kernels are launched one by one, in each step"),
    Flag("--model-impl", str, "auto", "quire's own model code, or transformers'",
         choices=("auto", "quire", "transformers")),
    Flag("--max-loras", int, 64, "adapters in one step"),
    Flag("--max-lora-rank", int, 256, "largest rank an adapter may have"),
    Flag("--lora-memory", size, 2 * 2**30, "bytes of adapters kept in memory that nobody uses",
         expected="a size such as 2G"),
    Flag("--threads", int, None, "CPU threads of the engine; default: the physical cores"),
    Flag("--grammar-engine", pairs, {}, "which engine serves which kind of grammar, where another can: "
         "regex=llguidance,choice=llguidance", field="grammar_engines", expected="KIND=ENGINE, behind commas more"),
    Flag("--speculative-config", speculation, Speculation(), "how tokens are guessed ahead, as JSON: method (ngram, "
         "suffix, draft_model, medusa, eagle3, none), model (the folder of a draft model or of heads), "
         "quantization (of a draft model), num_speculative_tokens, adaptive, prompt_lookup_min, prompt_lookup_max, "
         "suffix_tokens"),
]  # fmt: skip


# Kubernetes gives such variables of each service to all containers; one may be called quire-something.
OF_A_SERVICE = re.compile(r"_SERVICE_(HOST|PORT\w*)$|_PORT(_\d+_(TCP|UDP|SCTP)\w*)?$")

TEMPLATE = [flag for flag in SERVER if flag.name in ("--chat-template", "--tool-call-parser", "--reasoning-parser")]


def add_flags(parser: argparse.ArgumentParser, groups: Mapping[str, list[Flag]] | None = None) -> None:
    """Declare flags, all of `quire serve` if none are named; defaults stay out of argparse, so that `resolve` can tell
    "given" from "left out"."""
    for title, flags in (groups or {"server": SERVER, "engine": ENGINE}).items():
        group = parser.add_argument_group(title)
        for flag in flags:
            help_ = flag.help + ("" if flag.default in (None, (), {}, True, False) else f" [{_shown(flag.default)}]")
            if flag.parse is switch:
                group.add_argument(flag.name, dest=flag.dest, action="store_const", const=not flag.default, help=help_)
            else:
                metavar = None if flag.choices else flag.dest.upper()
                group.add_argument(
                    flag.name, dest=flag.dest, nargs="+" if flag.many else None, metavar=metavar, help=help_,
                    action="extend" if flag.many else "store",
                )  # fmt: skip


def check_variables(environ: Mapping[str, str]) -> None:
    """Raises ConfigError for a QUIRE_ variable that nothing reads."""
    known = ["QUIRE_MODEL", *(flag.env for flag in SERVER + ENGINE)]
    for name in sorted(environ):
        if name.startswith("QUIRE_") and name not in known and not OF_A_SERVICE.search(name):
            near = difflib.get_close_matches(name, known, 1, 0.0)[0]
            raise ConfigError(name, "is no variable of quire", f"{near}, or none of that name")


def resolve(flags: list[Flag], given: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """Field -> value: the flag, else its environment twin, else the default. Raises ConfigError naming the source."""
    found: dict[str, Any] = {}
    for flag in flags:
        value, source = given.get(flag.dest), source_of(flag, given, environ)
        if source == flag.env:
            value = environ[flag.env]
            if flag.many:
                value = flag.split(value) or ([""] if flag.parse is key else [])  # an empty key opens no server
        if value is None:
            found[flag.target] = flag.default
        elif flag.many:
            found[flag.target] = tuple(_parsed(flag, one, source) for one in value)
        elif isinstance(value, str):
            found[flag.target] = _parsed(flag, value, source)
        else:
            found[flag.target] = value
    return found


def source_of(flag: Flag, given: Mapping[str, Any], environ: Mapping[str, str]) -> str:
    """What a person wrote to set it, the flag or the variable; the flag where nobody did."""
    return flag.env if given.get(flag.dest) is None and environ.get(flag.env) is not None else flag.name


def as_written(error: QuireError, given: Mapping[str, Any], environ: Mapping[str, str]) -> str:
    """The message of an error; that of a ConfigError, also of one from the engine process, names what a person wrote
    instead of the field of a config."""
    field, _, rest = error.message.partition(" ")
    for flag in SERVER + ENGINE:
        if error.code == ConfigError.code and field in (flag.target, flag.name):
            return f"{source_of(flag, given, environ)} {rest}"
    return error.message


def _parsed(flag: Flag, text: str, source: str) -> Any:
    if flag.choices and text not in flag.choices:
        raise ConfigError(source, f"is {text!r}", " | ".join(flag.choices))
    try:
        return flag.parse(text)
    except (ValueError, OverflowError, RecursionError):
        expected = flag.expected or {int: "a whole number", float: "a number", switch: "yes or no"}.get(
            flag.parse, "text"
        )
        raise ConfigError(source, f"is {text!r}", expected) from None


def _shown(value: Any) -> str:
    if isinstance(value, msgspec.Struct):
        return msgspec.json.encode(value).decode()
    return " ".join(value) if isinstance(value, tuple) else str(value)


def markdown() -> str:
    """The table of docs/flags.md."""
    lines = ["| flag | environment | default | meaning |", "| --- | --- | --- | --- |"]
    for flag in SERVER + ENGINE:
        default = "" if flag.default in (None, (), {}, True, False) else f"`{_shown(flag.default)}`"
        lines.append(f"| `{flag.name}` | `{flag.env}` | {default} | {flag.help.replace('|', '/')} |")
    return "\n".join(lines) + "\n"


def template_text(path: str | None) -> str | None:
    """The chat template of `--chat-template FILE`."""
    if path is None:
        return None
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("--chat-template", f"{path} cannot be read ({error})", "a readable text file") from None
