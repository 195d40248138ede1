"""A tiny base with adapters that the tests of this folder damage, mix and compare."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from paged import make
from peft import IA3Config, LoraConfig
from peft_models import load, make_peft

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
KINDS = {
    "plain": LoraConfig(r=4, lora_alpha=6, target_modules=ALL),
    "plain too": LoraConfig(r=4, lora_alpha=9, target_modules=ALL),
    "fewer": LoraConfig(r=4, lora_alpha=5, target_modules=["q_proj", "down_proj", "embed_tokens"]),
    "wide": LoraConfig(r=12, lora_alpha=12, target_modules=["q_proj", "k_proj", "embed_tokens", "lm_head"]),
    "dora": LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "down_proj", "embed_tokens"], use_dora=True),
    "biased": LoraConfig(r=3, target_modules=["q_proj", "up_proj"], bias="all"),
    "saved": LoraConfig(r=3, target_modules=["q_proj"], modules_to_save=["embed_tokens", "v_proj"]),
    "ia3": IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
}


@pytest.fixture(autouse=True)
def in_one_thread(one_thread: None) -> None:
    """Every test of this folder."""


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base` and an adapter of each of KINDS."""
    folder = tmp_path_factory.mktemp("small")
    make("Llama", folder / "base", attention_bias=True, mlp_bias=True)
    for seed, (name, config) in enumerate(KINDS.items()):
        make_peft(folder / "base", folder / name, config, seed)
    return folder


@pytest.fixture(scope="session")
def model(small: Path):
    return load(small / "base")


@pytest.fixture
def copy(small: Path, tmp_path: Path):
    """copy(name) -> a copy of an adapter's folder that may be changed."""

    def made(name: str = "plain", to: str = "copy") -> Path:
        return Path(shutil.copytree(small / name, tmp_path / to))

    return made
