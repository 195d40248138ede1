"""Matrices packed as GPTQ, AWQ and compressed-tensors describe it, word by word, without a line of the reader."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass
class Coded:
    """weight = scale * (codes - zero): codes [out, in] and zero [out, groups] are whole numbers from 0 on, scale
    float16 [out, groups]; size inputs share a scale, or -1: all."""

    codes: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    bits: int
    size: int

    @classmethod
    def random(cls, seed: int, outputs: int, inputs: int, bits: int, size: int, *, symmetric: bool = False, low=0):
        """low: the smallest zero there may be."""
        rng = np.random.default_rng(seed)
        groups = 1 if size == -1 else -(-inputs // size)
        zero = rng.integers(low, 1 << bits, (outputs, groups))
        return cls(
            codes=rng.integers(0, 1 << bits, (outputs, inputs)),
            scale=rng.uniform(0.001, 0.1, (outputs, groups)).astype(np.float16),
            zero=np.full_like(zero, 1 << (bits - 1)) if symmetric else zero,
            bits=bits,
            size=size,
        )

    @classmethod
    def near(cls, weight: np.ndarray, bits: int, size: int) -> Coded:
        """The codes of a float matrix [out, in], from the smallest to the largest of each group."""
        outputs, inputs = weight.shape
        span = inputs if size == -1 else size
        groups = -(-inputs // span)
        padded = np.pad(weight.astype(np.float64), ((0, 0), (0, groups * span - inputs))).reshape(outputs, groups, span)
        low, most = np.minimum(padded.min(-1), 0), (1 << bits) - 1
        scale = ((np.maximum(padded.max(-1), 0) - low) / most).astype(np.float16)
        zero = np.clip(np.round(-low / scale), 0, most).astype(np.int64)
        codes = np.clip(np.round(padded / scale[..., None]) + zero[..., None], 0, most).astype(np.int64)
        return cls(codes.reshape(outputs, -1)[:, :inputs], scale, zero, bits, size)

    def dense(self) -> torch.Tensor:
        """float32 [out, in]; nothing is rounded, as 11 bits times 9 bits are no more than 24."""
        inputs = self.codes.shape[1]
        group = np.arange(inputs) // (inputs if self.size == -1 else self.size)
        exact = self.scale.astype(np.float64)[:, group] * (self.codes - self.zero[:, group])
        return torch.from_numpy(exact.astype(np.float32))


def words(values: np.ndarray, bits: int) -> np.ndarray:
    """[rows, n] -> uint32 [rows, words]: value i of a row is its bits from i * bits on; what is left over is 0."""
    rows, n = values.shape
    found = np.zeros((rows, -(-n * bits // 32)), np.uint32)
    for i in range(n):
        found[:, i * bits // 32] |= values[:, i].astype(np.uint32) << np.uint32(i * bits % 32)
    return found


def tensor(array: np.ndarray) -> torch.Tensor:
    array = array.view(np.int32) if array.dtype == np.uint32 else array
    return torch.from_numpy(np.ascontiguousarray(array))


def gptq(m: Coded, *, v1: bool = True) -> dict[str, torch.Tensor]:
    """v1: one less in every field of the packed zeros, by one subtraction a word that may borrow."""
    zeros = words(m.zero.T, m.bits)
    if v1:
        fields = (m.codes.shape[0] * m.bits + 31) // 32 * 32 // m.bits
        one = words(np.ones((1, fields), np.int64), m.bits)
        zeros = (zeros.astype(np.int64) - one.astype(np.int64)).astype(np.uint32)
    inputs = m.codes.shape[1]
    return {
        "qweight": tensor(words(m.codes, m.bits).T),
        "qzeros": tensor(zeros),
        "scales": tensor(m.scale.T),
        "g_idx": torch.arange(inputs, dtype=torch.int32) // (inputs if m.size == -1 else m.size),
    }


def awq(m: Coded) -> dict[str, torch.Tensor]:
    """Field i of a word, from the lowest bits on, is output 0, 2, 4, 6, 1, 3, 5, 7 of its eight."""

    def interleaved(values: np.ndarray) -> torch.Tensor:
        eights = values.reshape(len(values), -1, 8)
        return tensor(
            words(np.stack([eights[..., i] for i in (0, 2, 4, 6, 1, 3, 5, 7)], -1).reshape(len(values), -1), 4)
        )

    return {"qweight": interleaved(m.codes.T), "qzeros": interleaved(m.zero.T), "scales": tensor(m.scale.T)}


def pack_quantized(m: Coded, *, symmetric: bool) -> dict[str, torch.Tensor]:
    parts = {
        "weight_packed": tensor(words(m.codes, m.bits)),
        "weight_scale": tensor(m.scale),
        "weight_shape": torch.tensor(m.codes.shape),
    }
    if not symmetric:
        parts["weight_zero_point"] = tensor(words(m.zero.T, m.bits).T)
    return parts


def int_quantized(m: Coded, *, symmetric: bool) -> dict[str, torch.Tensor]:
    middle = 1 << (m.bits - 1)
    parts = {"weight": tensor((m.codes - middle).astype(np.int8)), "weight_scale": tensor(m.scale)}
    if not symmetric:
        parts["weight_zero_point"] = tensor((m.zero - middle).astype(np.int8))
    return parts


def gptq_settings(bits: int, size: int, **more) -> dict:
    return {"quant_method": "gptq", "bits": bits, "group_size": size, "sym": False, "desc_act": False} | more


def awq_settings(size: int, **more) -> dict:
    return {"quant_method": "awq", "bits": 4, "group_size": size, "zero_point": True, "version": "gemm"} | more


def compressed_settings(form: str, weights: dict, *, activations: dict | None = None, **more) -> dict:
    """As llm-compressor writes config.json."""
    args = {"dynamic": False, "num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
    group = {
        "targets": ["Linear"],
        "weights": args | {"group_size": None, "observer": "minmax", "observer_kwargs": {}} | weights,
        "input_activations": activations,
        "output_activations": None,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        "quantization_status": "compressed",
        "global_compression_ratio": None,
        "kv_cache_scheme": None,
    } | more
