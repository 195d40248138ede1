"""Tool calls in an answer's text: which format a model writes, its parser, and what a grammar must write.

Pure: no HTTP, no engine. A format is data (format.py); a new one is a description and a line in PARSERS.
"""

from __future__ import annotations

from importlib import import_module

from ...engine.errors import ConfigError
from .format import Format

PARSERS: dict[str, str] = {  # in the order in which `choose` tries them: the more a template must contain, the earlier
    "openai": "harmony:FORMAT",
    "functionary_v32": "tagged:FUNCTIONARY32",
    "deepseek_v32": "deepseek:V32",
    "deepseek_v4": "deepseek:V4",
    "deepseek_v3": "deepseek:V3",
    "deepseek_v31": "deepseek:V31",
    "kimi_k2": "kimi:FORMAT",
    "minimax_m3": "minimax:M3",
    "minimax_m2": "qwen_coder:MINIMAX",
    "seed_oss": "qwen_coder:SEED",
    "minicpm5": "qwen_coder:MINICPM",
    "hunyuan_v3": "glm:HUNYUAN",
    "glm47": "glm:GLM47",
    "glm45": "glm:GLM45",
    "qwen3_coder": "qwen_coder:QWEN3",
    "gemma4": "python_calls:GEMMA4",
    "lfm2": "python_calls:LFM2",
    "mistral_call_id": "mistral:WITH_ID",
    "mistral": "mistral:NEW",
    "mistral_old": "mistral:OLD",
    "solar_open": "tagged:SOLAR",
    "gigachat31": "tagged:GIGACHAT31",
    "gigachat3": "tagged:GIGACHAT3",
    "functionary_v31": "tagged:FUNCTIONARY31",
    "apertus": "lists:APERTUS",
    "cohere": "lists:COHERE",
    "command_r": "lists:COMMAND_R",
    "apriel": "lists:APRIEL",
    "nemotron": "lists:NEMOTRON",
    "firefunction": "lists:FIREFUNCTION",
    "granite": "lists:GRANITE",
    "phi4_mini": "lists:PHI4",
    "hermes": "hermes:FORMAT",
    "llama4_pythonic": "llama:PYTHONIC",
    "llama3_json": "llama:JSON",
}


def load(name: str) -> Format:
    """The format of a name in PARSERS."""
    module, _, attribute = PARSERS[name].partition(":")
    found: Format = getattr(import_module(f".{module}", __name__), attribute)
    return found


def choose(template: str, name: str | None = None) -> Format | None:
    """The format that a chat template shows; None where it shows none. name: this one, whatever the template shows.
    Raises ConfigError where there is none of that name."""
    if name is not None:
        if name not in PARSERS:
            raise ConfigError("tool_call_parser", f"is {name!r}", f"one of {', '.join(PARSERS)}")
        return load(name)
    return next((format for format in map(load, PARSERS) if format.matches(template)), None)
