"""What the tests of tests/gpu share: where they run, a small model, and the engine's own loop over it.

Where TRITON_INTERPRET=1 is set they run on a CPU by Triton's interpreter, in minutes: to try the tests themselves.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from quire.clients.bench.published import tensors
from quire.engine import messages as m
from quire.engine.config import EngineConfig, Speculation
from quire.engine.core import Engine
from quire.engine.measure.running import Wire, random_prompt
from quire.engine.runner import Runner
from quire.engine.state import Limits, State
from quire.kernels.triton import there

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda:0" if CUDA else "cpu")
LACK = None if CUDA else there.lack(torch.float32, DEVICE) and "no GPU: torch.cuda.is_available() is false"
SILENT = Speculation(method="none")
WIDTH, LAYERS, DIM, VOCAB = (256, 3, 64, 1000) if CUDA else (64, 1, 16, 200)
SHAPE = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH, "num_hidden_layers": LAYERS,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": DIM, "intermediate_size": 2 * WIDTH,
    "vocab_size": VOCAB, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "hidden_act": "silu", "tie_word_embeddings": False, "eos_token_id": 2,
}  # fmt: skip
SPREAD = 1.3 / WIDTH**0.5  # of the weights: so that its answers depend on what was asked


def write_small(folder: Path, dtype: torch.dtype = torch.bfloat16) -> Path:
    """A random Llama with weights in a file; the same weights whatever their kind, up to its rounding."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    g = torch.Generator().manual_seed(3)
    made = {
        name: (torch.ones(shape) if len(shape) == 1 else torch.randn(shape, generator=g) * SPREAD).to(dtype)
        for name, shape in tensors(SHAPE).items()
    }
    save_file(made, folder / "model.safetensors")
    config = SHAPE | {"torch_dtype": str(dtype).removeprefix("torch.")}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_adapter(folder: Path, rank: int, dora: bool, seed: int) -> Path:
    """A random adapter of that model, as peft writes it, large enough that it changes answers."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    g = torch.Generator().manual_seed(seed)
    shapes = {
        name: shape for name, shape in tensors(SHAPE).items() if name.endswith(("q_proj.weight", "down_proj.weight"))
    }
    held = {}
    for name, (outputs, inputs) in shapes.items():
        at = f"base_model.model.{name.removesuffix('.weight')}"
        held[f"{at}.lora_A.weight"] = torch.randn(rank, inputs, generator=g) * inputs**-0.5
        held[f"{at}.lora_B.weight"] = torch.randn(outputs, rank, generator=g)
        if dora:
            held[f"{at}.lora_magnitude_vector"] = torch.rand(outputs, generator=g) + 1
    save_file(held, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": ["q_proj", "down_proj"],
        "use_dora": dora,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


class Noting(Wire):
    """Keeps log-probabilities of prompts too, of each those of its tokens from the second on; and what failed."""

    def __init__(self, requests: list[m.Generate]):
        super().__init__(requests, float("inf"))
        self.logprobs: dict[str, list[float]] = {}
        self.failed: dict[str, str] = {}

    def send(self, out: Iterable[m.FromEngine]) -> None:
        news = []
        for one in out:
            if isinstance(one, m.Failed):
                self.failed[one.id] = one.message
                continue
            news.append(one)
            if isinstance(one, m.TokenDelta) and one.prompt_logprobs:
                self.logprobs.setdefault(one.id, []).extend(found.logprob for found in one.prompt_logprobs)
        super().send(news)


class Place:
    """One runner, and a fresh State for each run unless one is given."""

    def __init__(self, folder: Path, **fields: Any):
        known = {"attention": "triton", "speculative_config": SILENT, "kv_cache_memory": 1 << 26, "max_model_len": 1024}
        config = EngineConfig(model=str(folder), device=DEVICE.type, **(known | fields))
        self.runner = Runner(config, lambda done, total: None)
        self.state: State | None = None

    def run(self, requests: list[m.Generate], **room: Any) -> dict[str, list[int]]:
        """Tokens of each request, of which none may fail. room: as `wire` has it."""
        wire = self.wire(requests, **room)
        assert not wire.failed
        return dict(wire.course.tokens)

    def logprobs(self, prompts: list[list[int]]) -> torch.Tensor:
        """Of all tokens of all prompts but the first ones, one after the other."""
        params = m.SamplingParams(max_tokens=1, seed=0, temperature=0.0, prompt_logprobs=0)
        asked = [m.Generate(id=str(i), prompt=prompt, params=params) for i, prompt in enumerate(prompts)]
        found = self.wire(asked, cache=False).logprobs
        return torch.tensor([value for i in range(len(prompts)) for value in found[str(i)]])

    def wire(
        self,
        requests: list[m.Generate],
        at_once: int = 64,
        budget: int = 2048,
        pages: int | None = None,
        cache: bool = True,
        state: State | None = None,
    ) -> Noting:
        """All that was said of them."""
        limits = Limits(self.runner.max_model_len, at_once, budget, max_waiting=1000)
        self.state = state or State(limits, pages or self.runner.cache.num_blocks, cache)
        wire = Noting(requests)
        Engine(self.runner, self.state, wire).run()  # type: ignore[arg-type]
        return wire


def asked(count: int, prompt: int, answer: int, seed: int = 0) -> list[m.Generate]:
    """Every second one greedy, the others drawn from seeds of their own. Prompts of up to `prompt` tokens."""
    found = []
    for i in range(count):
        options: dict[str, Any] = [{"temperature": 0.0}, {"temperature": 1.0}, {"temperature": 0.0}, {"top_p": 0.9}][
            i % 4
        ]
        params = m.SamplingParams(max_tokens=answer, seed=1000 + i, **options)
        length = max(1, prompt * (i % 4 + 1) // 4)
        found.append(m.Generate(id=str(i), prompt=random_prompt(length, VOCAB, f"{seed} {i}"), params=params))
    return found


def cases(name: str) -> ModuleType:
    """A file of cases of tests/kernels, whose helpers are wanted without its tests."""
    path = Path(__file__).parents[1] / "kernels" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
