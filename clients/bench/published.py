"""Model folders in published shapes, without weights: the engine draws them where it computes (random.json).

The figures are those of the models' own config.json. A tiny twin of each has the same names and structure, so that what
measures them can be tried on a CPU. The tokenizer spells each byte by a token and knows words for all other ids, so
that whatever a random model says is text.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .make_model import CHATML

LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}  # fmt: skip
LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
         "vocab_size": 128256, "max_position_embeddings": 131072, "hidden_act": "silu"}  # fmt: skip
PUBLISHED: dict[str, dict[str, Any]] = {
    "llama-3.2-1b": LLAMA | {
        "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
        "head_dim": 64, "intermediate_size": 8192, "tie_word_embeddings": True,
        "rope_scaling": LLAMA3 | {"factor": 32.0}},
    "llama-3.1-8b": LLAMA | {
        "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "head_dim": 128, "intermediate_size": 14336, "tie_word_embeddings": False,
        "rope_scaling": LLAMA3 | {"factor": 8.0}},
    "qwen3-0.6b": {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
        "vocab_size": 151936, "max_position_embeddings": 40960, "hidden_act": "silu", "hidden_size": 1024,
        "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
        "intermediate_size": 3072, "tie_word_embeddings": True},
}  # fmt: skip
TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "intermediate_size": 128, "vocab_size": 640, "max_position_embeddings": 2048}  # fmt: skip
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def write_model(name: str, folder: Path, *, seed: int = 0, tiny: bool = False) -> None:
    """Write the folder of a key of PUBLISHED: config, tokenizer, template, and random.json in place of weights. tiny:
    of its twin."""
    config = PUBLISHED[name] | (TINY if tiny else {})
    if tiny and "rope_scaling" in config:
        config["rope_scaling"] = config["rope_scaling"] | {"original_max_position_embeddings": 512}
    config |= {"torch_dtype": "bfloat16", "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0}
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {"seed": seed, "dtype": "bfloat16", "tensors": tensors(config)}
    tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": SPECIAL[0], "eos_token": SPECIAL[2],
                 "pad_token": SPECIAL[0], "chat_template": CHATML}  # fmt: skip
    for file, content in (("config", config), ("random", drawn), ("tokenizer_config", tokenizer)):
        (folder / f"{file}.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    _write_tokenizer(folder / "tokenizer.json", config["vocab_size"])


def tensors(config: dict[str, Any]) -> dict[str, list[int]]:
    """Names and shapes of the tensors that a checkpoint of such a model has (Llama, Qwen3)."""
    width, inner, vocab, dim = (config[k] for k in ("hidden_size", "intermediate_size", "vocab_size", "head_dim"))
    q, kv = config["num_attention_heads"] * dim, config["num_key_value_heads"] * dim
    layer = {
        "input_layernorm": [width], "post_attention_layernorm": [width], "self_attn.q_proj": [q, width],
        "self_attn.k_proj": [kv, width], "self_attn.v_proj": [kv, width], "self_attn.o_proj": [width, q],
        "mlp.gate_proj": [inner, width], "mlp.up_proj": [inner, width], "mlp.down_proj": [width, inner],
    }  # fmt: skip
    if config["model_type"] == "qwen3":
        layer |= {"self_attn.q_norm": [dim], "self_attn.k_norm": [dim]}
    found = {"model.embed_tokens.weight": [vocab, width], "model.norm.weight": [width]}
    for i in range(config["num_hidden_layers"]):
        found |= {f"model.layers.{i}.{name}.weight": shape for name, shape in layer.items()}
    return found if config["tie_word_embeddings"] else found | {"lm_head.weight": [vocab, width]}


def _write_tokenizer(path: Path, size: int) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*SPECIAL, *letters]
    words += [f"Ġ{i}" for i in range(size - len(words))]
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in SPECIAL])
    tokenizer.save(str(path))
