"""config.json and generation_config.json from the keys of a GGUF file.

A key that is not known is refused: it may change what is computed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from ...engine.errors import ModelError
from ...engine.gguf import ROPE_FACTORS, File, Metadata
from .tokenizer import Words

ARCHITECTURES = {  # general.architecture -> architectures of config.json
    "llama": "LlamaForCausalLM",  # with a sliding window: MistralForCausalLM
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
BIASES: dict[str, tuple[str, ...]] = {  # fields that say which biases there are
    "llama": ("attention_bias", "mlp_bias"),
    "qwen2": (),
    "qwen3": ("attention_bias",),
}
# Keys that may be there with one value only, behind the architecture's name.
FIXED = {
    "attention.causal": True,
    "expert_count": 0,
    "expert_used_count": 0,
    "pooling_type": 0,
    "tensor_data_layout": "Meta AI original pth",  # the order of rows that engine/weights/gguf.py undoes
    "rope.scaling.attn_factor": 1.0,
    "rope.scaling.yarn_attn_factor": 1.0,
    "rope.scaling.yarn_ext_factor": 1.0,
    "rope.scaling.yarn_log_multiplier": 0.0,
}
HARMLESS = ("rope.scaling.finetuned",)
# Kind of scaling -> key behind rope.scaling -> field of rope_parameters; None: the kind has no use for it.
SCALINGS: dict[str, dict[str, str | None]] = {
    "none": {"factor": None, "original_context_length": None},
    "linear": {"factor": "factor", "original_context_length": None},
    "yarn": {
        "factor": "factor",
        "original_context_length": "original_max_position_embeddings",
        "yarn_beta_fast": "beta_fast",
        "yarn_beta_slow": "beta_slow",
    },
}
DTYPES = {"F32": "float32", "F16": "float16"}  # of the weights' kinds; all others: bfloat16
SAMPLING = {
    "temp": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p", "penalty_repeat": "repetition_penalty",
}  # key behind general.sampling -> field of generation_config.json  # fmt: skip


_BLOCK = re.compile(r"blk\.(\d{1,9})\.")


def architecture_of(file: File) -> str:
    """Of a whole model; the first to be asked. Raises ModelError where it is another one, or no whole model."""
    meta = file.metadata
    meta.one_of("general.type", ["model"], "model")
    meta.one_of("general.quantization_version", [2], 2)
    if (parts := meta.number("split.count", 1, low=0)) > 1:
        raise ModelError(f"{file.path}: is one of {parts} parts; expected a whole file (llama-gguf-split --merge)")
    found: str = meta.one_of("general.architecture", ARCHITECTURES)
    return found


def config_of(file: File, kind: str, words: Words) -> dict[str, Any]:
    """config.json. Raises ModelError naming the key or tensor for which the file cannot be served."""
    meta = file.metadata
    at: Callable[[str], str] = lambda key: f"{kind}.{key}"  # noqa: E731
    heads, width = meta.number(at("attention.head_count")), meta.number(at("embedding_length"))
    head_dim = meta.number(at("attention.key_length"), width // heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        meta.one_of(at(key), [head_dim], head_dim)
    for key, value in FIXED.items():
        meta.one_of(at(key), [value], value)
    config = {
        "vocab_size": _rows(file, at("vocab_size"), words),
        "hidden_size": width,
        "intermediate_size": meta.number(at("feed_forward_length")),
        "num_hidden_layers": meta.one_of(at("block_count"), [_blocks(file)]),
        "num_attention_heads": heads,
        "num_key_value_heads": meta.number(at("attention.head_count_kv"), heads),
        "head_dim": head_dim,
        "max_position_embeddings": meta.number(at("context_length")),
        "rms_norm_eps": meta.real(at("attention.layer_norm_rms_epsilon"), above=0),
        "rope_parameters": _rope(file, at, head_dim),
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "dtype": _dtype(file),
        **words.ids,
    }
    config |= _family(file, kind)
    _fits(file, config)
    unknown = [key for key in meta.unasked(f"{kind}.") if key.removeprefix(f"{kind}.") not in HARMLESS]
    if unknown:
        raise ModelError(
            f"{file.path}: key {', '.join(unknown)} may change what is computed and is not known for {kind}"
        )
    return config


def _family(file: File, kind: str) -> dict[str, Any]:
    """Its name, and the fields that only some have. Where biases are a part of the family they are no field."""
    key = f"{kind}.attention.sliding_window"
    window = file.metadata.number(key, 0, low=0)
    if window and kind != "llama":
        raise ModelError(
            f"{file.path}: key {key} is {window}; expected none for {kind}: its layers would have to be told"
        )
    if window:
        return {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": window}
    biases = {"attention_bias": "blk.0.attn_q.bias", "mlp_bias": "blk.0.ffn_gate.bias"}
    fields = {field: tensor in file.tensors for field, tensor in biases.items() if field in BIASES[kind]}
    return {"architectures": [ARCHITECTURES[kind]], "model_type": kind, **fields}


def generation_of(file: File, words: Words) -> dict[str, Any]:
    """generation_config.json: what ends a text, and how its makers would sample."""
    meta, found = file.metadata, {}
    for key, field in SAMPLING.items():
        if (value := meta.real(f"general.sampling.{key}", None)) is not None:
            found[field] = value
    return found | words.ids


def _rows(file: File, key: str, words: Words) -> int:
    """Of the embeddings; as many as the key says, if it is there, and enough for all tokens."""
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ModelError(f"{file.path}: tensor token_embd.weight is missing or no matrix; expected the embeddings")
    rows = embedding.shape[0]
    file.metadata.one_of(key, [rows], rows)
    if words.size > rows:
        raise ModelError(f"{file.path}: tensor token_embd.weight has {rows} rows; expected {words.size}, one a token")
    return rows


def _blocks(file: File) -> int:
    """As many as there are tensors of."""
    numbers = {int(found[1]) for name in file.tensors if (found := _BLOCK.match(name))}
    return max(numbers, default=0) + 1


def _fits(file: File, config: dict[str, Any]) -> None:
    """What the keys say must be what the tensors are, before anything is allocated that the keys ask for."""
    heads, kv_heads, head_dim = (config[f] for f in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    width = config["hidden_size"]
    for name, shape in {
        "token_embd.weight": (config["vocab_size"], width),
        "blk.0.attn_q.weight": (heads * head_dim, width),
        "blk.0.attn_k.weight": (kv_heads * head_dim, width),
        "blk.0.ffn_up.weight": (config["intermediate_size"], width),
    }.items():
        found = file.tensors[name].shape if name in file.tensors else None
        if found != shape:
            shown = "missing" if found is None else list(found)
            raise ModelError(f"{file.path}: tensor {name} is {shown}; by the file's keys it has shape {list(shape)}")


def _rope(file: File, at: Callable[[str], str], head_dim: int) -> dict[str, Any]:
    """rope_parameters."""
    meta: Metadata = file.metadata
    theta = meta.real(at("rope.freq_base"), 10000.0, above=1)
    factor = at("rope.scaling.factor")
    kind = meta.one_of(at("rope.scaling.type"), SCALINGS, "linear" if factor in meta else "none")
    fields = {}
    for key, field in SCALINGS[kind].items():
        value = meta.real(at(f"rope.scaling.{key}"), None, above=0)
        if field is not None and value is not None:
            fields[field] = int(value) if field.startswith("original") else value
    if ROPE_FACTORS not in file.tensors:
        return {"rope_type": "default" if kind == "none" else kind, "rope_theta": theta, **fields}
    if kind != "none":
        raise ModelError(
            f"{file.path}: key {at('rope.scaling.type')} is {kind} beside tensor {ROPE_FACTORS}; expected one"
        )
    # llama.cpp keeps Llama 3's scaling as a divisor of each frequency. LongRoPE is that, for short texts and long ones.
    divisors = _divisors(file, head_dim // 2)
    return {
        "rope_type": "longrope", "rope_theta": theta, "short_factor": divisors, "long_factor": divisors,
        "attention_factor": 1.0,
    }  # fmt: skip


def _divisors(file: File, count: int) -> list[float]:
    tensor = file.tensors[ROPE_FACTORS]
    if tensor.kind.name != "F32" or tensor.shape != (count,):
        found = f"{tensor.kind.name} {list(tensor.shape)}"
        raise ModelError(f"{file.path}: tensor {ROPE_FACTORS} is {found}; expected F32 [{count}]")
    values = file.data(tensor).view("<f4")
    if not (np.isfinite(values) & (values > 0)).all():
        raise ModelError(f"{file.path}: tensor {ROPE_FACTORS} holds what is no divisor; expected numbers above 0")
    found_values: list[float] = values.tolist()
    return found_values


def _dtype(file: File) -> str:
    """What most of the weights are."""
    sizes: dict[str, int] = {}
    for tensor in file.tensors.values():
        sizes[tensor.kind.name] = sizes.get(tensor.kind.name, 0) + tensor.size
    return DTYPES.get(max(sizes, key=lambda kind: sizes[kind]), "bfloat16")
