"""Adapters made by peft for a small model, and an engine without its process to run them in."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from quire.engine import messages as m
from quire.engine.config import EngineConfig
from quire.engine.core import Engine
from quire.engine.runner import Runner
from quire.engine.state import Limits, State


def make_adapter(base: Path, folder: Path, seed: int, *, size: float = 0.05, **config: Any) -> Path:
    """An adapter of the model in `base`, written by peft, all its tensors random of about `size`."""
    import peft
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    kind = peft.IA3Config if config.pop("ia3", False) else peft.LoraConfig
    adapted = peft.get_peft_model(model, kind(task_type="CAUSAL_LM", **config))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator) * size
                parameter.copy_(parameter + noise if kind is peft.IA3Config else noise)
    adapted.save_pretrained(folder)
    return folder


def merged_logits(base: Path, parts: list[tuple[Path, float]], tokens: list[int]) -> torch.Tensor:
    """[len(tokens), vocab] of the base with one adapter, or a sum of several, merged into its weights by peft."""
    import peft
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    for folder, scale in parts:
        adapted = peft.PeftModel.from_pretrained(model, folder)
        if scale != 1:
            for module in adapted.modules():
                if hasattr(module, "scale_layer"):
                    module.scale_layer(scale)
        model = adapted.merge_and_unload()
    with torch.inference_mode():
        return model(torch.tensor([tokens])).logits[0]


class NoChannel:
    """An engine's channel that nobody is at the other end of."""

    def receive(self, timeout: int) -> list[m.ToEngine]:
        return []

    def send(self, messages: list[m.FromEngine]) -> None:
        raise AssertionError("the loop is not run")


class Bench:
    """One engine, driven step by step."""

    def __init__(self, folder: Path, **fields: Any):
        limits = {key: fields.pop(key) for key in ("max_num_batched_tokens", "pages") if key in fields}
        fields = {"kv_cache_memory": 2**25, "threads": 1, **fields}
        config = EngineConfig(model=str(folder), **fields)
        self.runner = Runner(config, lambda done, total: None)
        length = self.runner.max_model_len
        bounds = Limits(length, config.max_num_seqs, limits.get("max_num_batched_tokens", 512), 4096,
                        max_loras=config.max_loras)  # fmt: skip
        state = State(bounds, limits.get("pages", self.runner.cache.num_blocks))
        self.engine = Engine(self.runner, state, NoChannel())  # type: ignore[arg-type]
        self.tokens: dict[str, list[int]] = {}
        self.logprobs: dict[str, list[m.TokenLogprob]] = {}
        self.cached: dict[str, int] = {}
        self.failed: dict[str, m.Failed] = {}
        self.loaded: dict[str, m.AdapterInfo] = {}
        self.gone: list[str] = []
        self.known: list[m.AdapterInfo] = []

    @property
    def state(self) -> State:
        return self.engine.state

    def load(self, name: str, folder: Path, *, pinned: bool = False) -> m.AdapterInfo:
        """Load and wait. Raises KeyError where it failed (see `failed`)."""
        self.loaded.pop(name, None)
        self.take([m.LoadAdapter(id=name, name=name, path=str(folder), pinned=pinned)])
        while name not in self.loaded and name not in self.failed:
            time.sleep(0.001)
            self.take([])
        return self.loaded[name]

    def states(self) -> list[m.AdapterInfo]:
        """How all adapters stand, without waiting for the engine to tell."""
        return self.engine.library._infos(self.runner.slots)

    def take(self, inbox: list[m.ToEngine]) -> None:
        for message in self.engine.receive(inbox) + self.engine.step():
            match message:
                case m.TokenDelta():
                    name = f"{message.id}/{message.index}" if message.index else message.id
                    self.tokens.setdefault(name, []).extend(message.tokens)
                    self.logprobs.setdefault(message.id, []).extend(message.prompt_logprobs or [])
                    if message.cached_tokens is not None:
                        self.cached[message.id] = message.cached_tokens
                case m.Failed():
                    self.failed[message.id] = message
                case m.AdapterLoaded():
                    self.loaded[message.id] = message.info
                case m.AdapterGone():
                    self.gone.append(message.id)
                case m.Adapters():
                    self.known = message.known
        self.state.check()

    def run(self, requests: list[m.Generate]) -> None:
        """Until all have ended."""
        self.take(list(requests))
        while self.state.has_work() or self.engine.intake.waits:
            if not self.state.has_work():
                time.sleep(0.001)  # as the loop does, for the threads beside it
            self.take([])


def ask(name: str, prompt: list[int], *uses: tuple[str, float], tokens: int = 8, n: int = 1, **more: Any) -> m.Generate:
    """A request with these adapters; greedy unless a temperature is given."""
    fields = {key: more.pop(key) for key in ("merge", "cache_salt") if key in more}
    params = m.SamplingParams(**{"max_tokens": tokens, "seed": 7, "temperature": 0.0, **more})
    return m.Generate(id=name, prompt=prompt, params=params, n=n, adapters=tuple(m.Use(*use) for use in uses), **fields)


def encoded(folder: Path, text: str) -> list[int]:
    from tokenizers import Tokenizer

    return list(Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids)
