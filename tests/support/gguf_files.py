"""GGUF files made of Hugging Face folders with the package `gguf`, the way llama.cpp's converter makes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf import TokenType
from numpy.typing import NDArray
from safetensors.numpy import load_file

from quire.engine import tokens as files

NAMES = {
    "LlamaForCausalLM": gguf.MODEL_ARCH.LLAMA,
    "MistralForCausalLM": gguf.MODEL_ARCH.LLAMA,
    "Qwen2ForCausalLM": gguf.MODEL_ARCH.QWEN2,
    "Qwen3ForCausalLM": gguf.MODEL_ARCH.QWEN3,
}
BLOCK_HALVES = {  # kind -> places of the float16 numbers in its blocks
    Kind.Q4_K: (0, 2), Kind.Q5_K: (0, 2), Kind.Q6_K: (208,),
}  # fmt: skip
Encode = Callable[[str, NDArray[np.float32]], tuple[NDArray[Any], Kind]]  # name, values -> data, kind


def as_kind(kind: Kind) -> Encode:
    """Matrices are stored as `kind`, the rest as float32."""

    def encode(name: str, values: NDArray[np.float32]) -> tuple[NDArray[Any], Kind]:
        if values.ndim == 1:
            return values, Kind.F32
        if kind in BLOCK_HALVES:  # the package reads these and does not make them: any blocks will do
            return random_blocks(kind, values.shape, seed=len(name)), kind
        return gguf.quantize(values, kind), kind

    return encode


def random_blocks(kind: Kind, shape: tuple[int, ...], seed: int = 0) -> NDArray[np.uint8]:
    """uint8 [rows, bytes]: any bits, but scales of a sound size."""
    values, size = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (shape[0], shape[1] // values, size), dtype=np.uint8)
    for at in BLOCK_HALVES[kind]:
        scale = rng.uniform(1e-4, 4e-4, (*blocks.shape[:2], 1)).astype(np.float16)
        blocks[..., at : at + 2] = scale.view(np.uint8)
    return blocks.reshape(shape[0], -1)


def write_model(
    folder: Path,
    path: Path,
    encode: Encode | None = None,
    *,
    whole: dict[str, Any] | None = None,
    renamed: dict[str, str] | None = None,
    **keys: Any,
) -> dict[str, NDArray[np.float32]]:
    """Write the model of `folder`; returns its tensors as the file has them, by transformers' names and in their order.

    keys: more of them, or others, behind the architecture's name; None: leave this one out. whole: the same with their
    whole names. renamed: tensors that get another name than theirs.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    arch = NAMES[config["architectures"][0]]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    for key, value in ({**keys_of(config), **keys}).items():
        if value is not None:
            add(writer, f"{writer.arch}.{key}", value)
    write_words(writer, folder, config["vocab_size"])
    for key, value in (whole or {}).items():
        add(writer, key, value)
    stored = write_tensors(writer, folder, config, encode or as_kind(Kind.F32), renamed or {})
    close(writer)
    return stored


def keys_of(config: dict[str, Any]) -> dict[str, Any]:
    """Metadata behind the architecture's name."""
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    rope = config.get("rope_parameters") or {}
    found: dict[str, Any] = {
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": config["num_key_value_heads"],
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        "rope.freq_base": float(rope.get("rope_theta", 10000.0)),
        "vocab_size": config["vocab_size"],
    }
    if config["architectures"][0] == "MistralForCausalLM" and config.get("sliding_window"):
        found["attention.sliding_window"] = config["sliding_window"]
    if config["model_type"] in ("llama", "mistral"):
        found["rope.dimension_count"] = head_dim
    if rope.get("rope_type") in ("linear", "yarn"):
        found["rope.scaling.type"] = rope["rope_type"]
        found["rope.scaling.factor"] = float(rope["factor"])
        if rope["rope_type"] == "yarn":
            found["rope.scaling.original_context_length"] = rope["original_max_position_embeddings"]
    return found


def add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string,
             list: writer.add_array}  # fmt: skip
    writer.kv_data[0].pop(key, None)  # what is there already
    kinds[type(value)](key, value)


def write_tensors(
    writer: gguf.GGUFWriter, folder: Path, config: dict[str, Any], encode: Encode, renamed: dict[str, str]
) -> dict[str, NDArray[np.float32]]:
    arch = NAMES[config["architectures"][0]]
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    stored = {}
    for name, values in load_file(folder / "model.safetensors").items():
        values = np.ascontiguousarray(values, dtype=np.float32)
        count = heads.get(name.split(".")[-2]) if arch == gguf.MODEL_ARCH.LLAMA else None
        turned = values if count is None else _turned(values, count)
        own = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert own is not None, name
        data, kind = encode(own, turned)
        writer.add_tensor(renamed.get(own, own), data, raw_dtype=kind)
        back = data if kind == Kind.F32 else gguf.dequantize(data, kind)
        stored[name] = back if count is None else _straight(back, count)
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight", _divisors(rope, keys_of(config)["attention.key_length"]))
    return stored


def _turned(rows: NDArray[Any], heads: int) -> NDArray[Any]:
    """Half against half in a head becomes neighbour against neighbour."""
    return np.ascontiguousarray(rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2)).reshape(rows.shape)


def _straight(rows: NDArray[Any], heads: int) -> NDArray[Any]:
    return np.ascontiguousarray(rows.reshape(heads, -1, 2, *rows.shape[1:]).swapaxes(1, 2)).reshape(rows.shape)


def _divisors(rope: dict[str, Any], head_dim: int) -> NDArray[np.float32]:
    """Of each frequency, by the rule of Llama 3.1."""
    found = []
    for i in range(0, head_dim, 2):
        turns = rope["original_max_position_embeddings"] * rope["rope_theta"] ** (-i / head_dim) / (2 * np.pi)
        kept = (turns - rope["low_freq_factor"]) / (rope["high_freq_factor"] - rope["low_freq_factor"])
        kept = min(max(kept, 0.0), 1.0)
        found.append(1 / (kept + (1 - kept) / rope["factor"]))
    return np.array(found, dtype=np.float32)


def write_words(writer: gguf.GGUFWriter, folder: Path, rows: int) -> None:
    """The tokenizer of the folder; where it has none, a vocabulary of `rows` tokens that spells next to nothing."""
    path = folder / "tokenizer.json"
    if path.is_file():
        settings = files.settings_of(folder)
        if (template := folder / "chat_template.jinja").is_file():
            settings["chat_template"] = template.read_text(encoding="utf-8")
        write_vocabulary(writer, json.loads(path.read_text(encoding="utf-8")), settings, rows, pre="gpt-2")
        return
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(["a", "b", "ab", *(f"w{i}" for i in range(3, rows))])
    writer.add_token_types([TokenType.NORMAL] * rows)
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(2)


def write_vocabulary(
    writer: gguf.GGUFWriter, description: dict[str, Any], settings: dict[str, Any], rows: int = 0, pre: str = ""
) -> None:
    """description: tokenizer.json; settings: tokenizer_config.json; rows: of the model, if there are more."""
    model = description["model"]
    words = {token: text for text, token in model["vocab"].items()}
    added = {t["id"]: t for t in description["added_tokens"]}
    words |= {token: t["content"] for token, t in added.items()}
    known = {text: token for token, text in words.items()}
    sentencepiece = files.is_sentencepiece(description)
    texts, types = [], []
    for token in range(max(rows, max(words) + 1)):
        text = words.get(token, f"[PAD{token}]")
        texts.append(text)
        if token not in words:
            types.append(TokenType.UNUSED)
        elif text == model["unk_token"]:
            types.append(TokenType.UNKNOWN)
        elif token in added:
            types.append(TokenType.CONTROL if added[token]["special"] else TokenType.USER_DEFINED)
        else:
            types.append(TokenType.BYTE if sentencepiece and files.is_byte(text) else TokenType.NORMAL)
    writer.add_tokenizer_model("llama" if sentencepiece else "gpt2")
    writer.add_tokenizer_pre("default" if sentencepiece else pre)
    writer.add_token_list(texts)
    writer.add_token_types(types)
    pairs = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    if sentencepiece:  # a piece's score is its place in the training, where its first merge stands
        place = {left + right: n for n, (left, right) in reversed([*enumerate(pairs)])}
        writer.add_token_scores([-float(place.get(text, len(pairs))) for text in texts])
    else:
        writer.add_token_merges([" ".join(pair) for pair in pairs])
    for role, put in (("bos_token", writer.add_bos_token_id), ("eos_token", writer.add_eos_token_id),
                      ("pad_token", writer.add_pad_token_id)):  # fmt: skip
        if (text := files.named(settings, role)) is not None:
            put(known[text])
    writer.add_add_bos_token('"TemplateProcessing"' in json.dumps(description.get("post_processor")))
    if (template := settings.get("chat_template")) is not None:
        writer.add_chat_template(template)


def close(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
