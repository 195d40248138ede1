"""Which maker a server has: a line each."""

from __future__ import annotations

import importlib
from pathlib import Path

from ..config import Speculation
from ..models import CausalLM
from .maker import Maker

MAKERS = {  # method -> module of this folder, with `load(folder, folder of the model, model)`
    "draft_model": "drafter",
    "medusa": "heads",
    "eagle3": "eagle",
}


def load_maker(speculation: Speculation, target_folder: Path, target: CausalLM) -> Maker | None:
    """What `speculation` names. Raises ConfigError where it is not there or does not fit the model."""
    name = next((name for name in speculation.stack if name in MAKERS), None)
    if name is None or speculation.model is None:
        return None
    module = importlib.import_module(f".{MAKERS[name]}", __package__)
    more = {} if speculation.quantization is None else {"quantization": speculation.quantization}
    maker: Maker = module.load(Path(speculation.model), target_folder, target, **more)
    return maker
