"""What the API process is started with: one frozen dataclass, passed down, never global."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..engine.errors import ConfigError

LEAST_WEIGHT, MOST_WEIGHT = 0.01, 100.0  # of an adapter's turns


@dataclass(frozen=True, slots=True)
class LoraModule:
    """An adapter of --lora-modules."""

    name: str
    path: str  # a folder, or a hub name
    base_model_name: str | None = None  # what it must be for: a served name
    weight: float = 1.0  # of its turns, where more adapters are wanted than there are slots


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Everything the HTTP side needs to know; the fields of `server/flags.py` that are the server's."""

    served_model_names: tuple[str, ...]
    model_path: str = ""
    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: tuple[str, ...] = ()
    admin_keys: tuple[str, ...] = ()  # of the routes that change what is served
    cors_origins: tuple[str, ...] = ("*",)
    max_body_bytes: int = 32 * 2**20
    max_requests: int = 1024  # in flight
    generation_config: str = "auto"  # auto: sampling defaults from the model's generation_config.json | none
    tool_call_parser: str = "auto"  # a name of tools.PARSERS; auto: as the chat template shows | none
    reasoning_parser: str = "auto"  # a name of reasoning.KINDS; auto | none
    lora_modules: tuple[LoraModule, ...] = ()  # loaded at the start
    lora_dir: str | None = None  # its folders are adapters, loaded on first use
    lora_hub: bool = False  # adapters may be fetched from the hub
    seed: int | None = None  # makes requests without a seed repeatable
    drain_timeout: float = 30.0  # seconds that running streams get at the end
    stale_seconds: float = 30.0  # with work pending and no sign of progress for so long, /ready says 503

    def __post_init__(self) -> None:
        names = self.served_model_names
        if not names or not all(name.strip() for name in names) or len(set(names)) < len(names):
            raise ConfigError("served_model_names", f"is {' '.join(map(repr, names))}", "names, none empty or twice")
        for field in ("max_requests", "max_body_bytes"):
            if (value := getattr(self, field)) < 1:
                raise ConfigError(field, f"is {value}", "at least 1")
        if math.isnan(self.drain_timeout) or self.drain_timeout < 0:
            raise ConfigError("drain_timeout", f"is {self.drain_timeout}", "seconds, at least 0")
        if self.seed is not None and not 0 <= self.seed < 2**64:
            raise ConfigError("seed", f"is {self.seed}", "a number from 0 to 2^64 - 1")
