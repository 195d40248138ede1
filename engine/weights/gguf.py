"""GGUF: tensors under the names that transformers gives them; those of whole numbers stay as small as they are.

Blocks are described in ggml's ggml-quants.h. llama.cpp's converter puts the rows of `llama`'s queries and keys in
another order, for a rotary embedding that turns neighbours; here they get their own order back.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ...kernels.quantized import MIDDLE, Quantized
from .. import gguf
from ..errors import ModelError

WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
TURNED = {"llama": {"attn_q": "attention.head_count", "attn_k": "attention.head_count_kv"}}  # by architecture
FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
AT_ONCE = 1 << 22  # values unpacked at a time

_NAME = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")


def open_folder(folder: Path, device: torch.device) -> GgufReader:
    found = sorted(folder.glob("*.gguf"))
    if len(found) != 1:
        raise ModelError(f"{folder}: has {len(found)} .gguf files; expected one")
    return GgufReader(found[0])


class GgufReader:
    """All tensors of one file by transformers' names. Raises ModelError naming one that has no such name."""

    def __init__(self, path: Path):
        self._file = gguf.File(path.resolve())
        meta = self._file.metadata
        architecture = meta.text("general.architecture")
        self._heads = {
            module: meta.number(f"{architecture}.{key}", meta.number(f"{architecture}.attention.head_count"))
            for module, key in TURNED.get(architecture, {}).items()
        }
        self._own = {self._renamed(own): own for own in self._file.tensors if own != gguf.ROPE_FACTORS}
        self.names = {name: self._file.tensors[own].size for name, own in self._own.items()}

    def read(self, name: str) -> Tensor | Quantized:
        """Floats: a view of the mapped file. Whole numbers: `Quantized`, with the very weights of the file."""
        tensor = self._file.tensors[self._own[name]]
        found = self._floats(tensor) if tensor.kind.name in FLOATS else self._quantized(tensor)
        block = _NAME.fullmatch(tensor.name)
        heads = self._heads.get(block[2]) if block else None
        if heads is None:
            return found
        order = self._straight(tensor, heads)
        return found.rows(order) if isinstance(found, Quantized) else found[order]

    def where(self, name: str) -> str:
        """The file."""
        return str(self._file.path)

    def _renamed(self, own: str) -> str:
        stem, _, part = own.rpartition(".")
        if stem in WHOLE:
            return f"{WHOLE[stem]}.{part}"
        if (block := _NAME.fullmatch(own)) and block[2] in BLOCK:
            return f"model.layers.{block[1]}.{BLOCK[block[2]]}.{part}"
        raise ModelError(f"{self._file.path}: tensor {own} has no place in the models that GGUF files are served of")

    def _floats(self, tensor: gguf.Tensor) -> Tensor:
        return torch.from_numpy(self._file.data(tensor)).view(FLOATS[tensor.kind.name]).view(tensor.shape)

    def _quantized(self, tensor: gguf.Tensor) -> Quantized:
        if len(tensor.shape) != 2:
            raise ModelError(
                f"{self._file.path}: tensor {tensor.name} is {tensor.kind.name} of shape {list(tensor.shape)}; "
                "expected whole numbers in matrices only"
            )
        found = unpack(torch.from_numpy(self._file.data(tensor)), tensor.kind, tensor.shape)
        if not all(part is None or bool(part.isfinite().all()) for part in (found.scale, found.low)):
            raise ModelError(f"{self._file.path}: tensor {tensor.name} has a scale that is no number: it is damaged")
        return found

    def _straight(self, tensor: gguf.Tensor, heads: int) -> Tensor:
        """[rows]: for each row as transformers has it, the file's. In a head the file has (first half, second half) of
        each angle side by side."""
        rows = tensor.shape[0]
        if rows % (2 * heads):
            raise ModelError(
                f"{self._file.path}: tensor {tensor.name} has {rows} rows; expected a multiple of 2 x {heads} heads"
            )
        return torch.arange(rows).view(heads, -1, 2).transpose(1, 2).reshape(-1)


# ---------------------------------------------------------------- blocks of whole numbers

Parts = tuple[Tensor, Tensor, Tensor | None]  # codes [blocks, values], scale and low [blocks, groups]


def unpack(raw: Tensor, kind: gguf.Kind, shape: tuple[int, ...]) -> Quantized:
    """raw: uint8, all blocks of a matrix, row by row."""
    outputs, inputs = shape
    bits, group, parts_of = UNPACK[kind.name]
    blocks = raw.view(-1, kind.size)
    codes = torch.empty((len(blocks), kind.values), dtype=torch.int8 if bits == 8 else torch.uint8)
    scale = torch.empty((len(blocks), kind.values // group))
    low = None
    step = AT_ONCE // kind.values
    for at in range(0, len(blocks), step):
        part = slice(at, at + step)
        codes[part], scale[part], lows = parts_of(blocks[part])
        if lows is not None:
            low = torch.empty_like(scale) if low is None else low
            low[part] = lows
    groups = outputs, inputs // group
    return Quantized(
        codes.view(outputs, inputs), scale.view(groups), bits, group, None if low is None else low.view(groups)
    )


def _half(blocks: Tensor, at: int) -> Tensor:
    """float32 [blocks, 1] from the float16 at byte `at` of each."""
    return blocks[:, at : at + 2].contiguous().view(torch.float16).float()


def _nibbles(packed: Tensor) -> Tensor:
    """uint8 [..., n] -> [..., 2 n]: all low halves, then all high ones."""
    return torch.cat([packed & 15, packed >> 4], -1)


def _shifted(packed: Tensor, step: int) -> Tensor:
    """uint8 [..., n] -> [..., 8 / step, n]: `step` bits of each byte, the lowest first."""
    shifts = torch.arange(0, 8, step, dtype=torch.uint8)[:, None]
    return (packed.unsqueeze(-2) >> shifts) & ((1 << step) - 1)


def _scales_and_lows(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Of a block of 256, what Q4_K and Q5_K share: 2 + 2 bytes, then 8 + 8 numbers of 6 bits in 12 bytes: 4 bytes with
    the first four scales, 4 with the first four lows, whose highest 2 bits belong to the last four, and 4 with the
    lower halves of these. -> scale, low [blocks, 8]."""
    first, second, last = blocks[:, 4:16].view(-1, 3, 4).unbind(1)
    scales = torch.cat([first & 63, (last & 15) | (first >> 6 << 4)], 1)
    lows = torch.cat([second & 63, (last >> 4) | (second >> 6 << 4)], 1)
    return _half(blocks, 0) * scales, -_half(blocks, 2) * lows


def _from_middle(codes: Tensor, scale: Tensor, low: Tensor) -> Parts:
    """Codes of 4 bits count from their middle in `Quantized`, and from 0 in these blocks."""
    return codes, scale, low + MIDDLE[4] * scale


def _q4_0(blocks: Tensor) -> Parts:
    return _nibbles(blocks[:, 2:]), _half(blocks, 0), None


def _q4_1(blocks: Tensor) -> Parts:
    return _from_middle(_nibbles(blocks[:, 4:]), _half(blocks, 0), _half(blocks, 2))


def _fifth_bits(packed: Tensor) -> Tensor:
    """uint8 [blocks, 4] -> [blocks, 32], 16 or 0."""
    return _shifted(packed, 1).transpose(-1, -2).reshape(-1, 32) << 4


def _q5_0(blocks: Tensor) -> Parts:
    codes = _nibbles(blocks[:, 6:]) | _fifth_bits(blocks[:, 2:6])
    return codes.to(torch.int8) - 16, _half(blocks, 0), None


def _q5_1(blocks: Tensor) -> Parts:
    codes = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks[:, 4:8])
    return codes.to(torch.int8), _half(blocks, 0), _half(blocks, 2)


def _q8_0(blocks: Tensor) -> Parts:
    return blocks[:, 2:].view(torch.int8), _half(blocks, 0), None


def _q4_k(blocks: Tensor) -> Parts:
    codes = _nibbles(blocks[:, 16:].view(-1, 4, 32)).view(-1, 256)
    return _from_middle(codes, *_scales_and_lows(blocks))


def _q5_k(blocks: Tensor) -> Parts:
    codes = _nibbles(blocks[:, 48:].view(-1, 4, 32)).view(-1, 256) | _shifted(blocks[:, 16:48], 1).view(-1, 256) << 4
    return codes.to(torch.int8), *_scales_and_lows(blocks)


def _q6_k(blocks: Tensor) -> Parts:
    lower = _nibbles(blocks[:, :128].view(-1, 2, 64))
    upper = _shifted(blocks[:, 128:192].view(-1, 2, 32), 2).view(-1, 2, 128)
    codes = (lower | upper << 4).view(-1, 256).to(torch.int8) - 32
    return codes, _half(blocks, 208) * blocks[:, 192:208].view(torch.int8), None


UNPACK: dict[str, tuple[int, int, Callable[[Tensor], Parts]]] = {  # kind -> bits, group, how
    "Q4_0": (4, 32, _q4_0),
    "Q4_1": (4, 32, _q4_1),
    "Q5_0": (8, 32, _q5_0),
    "Q5_1": (8, 32, _q5_1),
    "Q8_0": (8, 32, _q8_0),
    "Q4_K": (4, 32, _q4_k),
    "Q5_K": (8, 32, _q5_k),
    "Q6_K": (8, 16, _q6_k),
}
