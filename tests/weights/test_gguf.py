"""GGUF files: what is read is what the package `gguf` wrote, and a damaged file is an error that names the place."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import gguf as truth
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf_files import BLOCK_HALVES, as_kind, random_blocks, write_model
from hypothesis import given, settings
from hypothesis import strategies as st
from paged import make

from quire.engine.errors import ModelError
from quire.engine.gguf import ALIGNMENTS, File
from quire.engine.weights import open_weights
from quire.engine.weights.gguf import GgufReader
from quire.kernels.quantized import Quantized

QUANTIZED = (Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K)
WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8, "num_key_value_heads": 4}


def written(path: Path, **tensors: tuple[np.ndarray, Kind]) -> Path:
    """A file with one key and these tensors; "__" in a name stands for "."."""
    writer = truth.GGUFWriter(path, "qwen2")
    for name, (data, kind) in tensors.items():
        writer.add_tensor(name.replace("__", "."), data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("kind", QUANTIZED, ids=lambda kind: kind.name)
@pytest.mark.parametrize("shape", [(1, 256), (7, 512), (300, 256)])
def test_whole_numbers_are_the_weights_of_the_reference(kind, shape, tmp_path):
    if kind in BLOCK_HALVES:
        data = random_blocks(kind, shape)
    else:
        data = truth.quantize(np.random.default_rng(1).normal(size=shape).astype(np.float32), kind)
    reader = GgufReader(written(tmp_path / "x.gguf", output__weight=(data, kind)))
    found = reader.read("lm_head.weight")
    assert isinstance(found, Quantized)
    assert reader.names == {"lm_head.weight": data.nbytes}
    expected = torch.from_numpy(truth.dequantize(data, kind))
    if found.low is None:
        assert torch.equal(found.dense(), expected)
    else:  # 4 bits count from their middle, so the sum is rounded at another place
        unit = found.scale.abs().max().item() * 16
        torch.testing.assert_close(found.dense(), expected, rtol=0, atol=unit * 2**-23)


def test_every_bit_of_a_block_is_read(tmp_path):
    """The extreme codes and scales of each kind."""
    for kind in BLOCK_HALVES:
        for byte in (0x00, 0x0F, 0xF0, 0xFF, 0x80, 0x7F):
            data = random_blocks(kind, (2, 256))
            scales = [(at, data[:, at : at + 2].copy()) for at in BLOCK_HALVES[kind]]
            data[:] = byte
            for at, scale in scales:
                data[:, at : at + 2] = scale
            found = GgufReader(written(tmp_path / f"{kind}{byte}.gguf", output__weight=(data, kind)))
            expected = torch.from_numpy(truth.dequantize(data, kind))
            torch.testing.assert_close(found.read("lm_head.weight").dense(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", [Kind.F32, Kind.F16, Kind.BF16])
def test_floats_are_views_of_the_file(kind, tmp_path):
    values = np.random.default_rng(1).normal(size=(5, 6)).astype(np.float32)
    data = truth.quantize(values, kind)
    found = GgufReader(written(tmp_path / "x.gguf", output__weight=(data, kind))).read("lm_head.weight")
    assert found.dtype == {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind.name]
    assert found.shape == (5, 6)
    assert torch.equal(found.float(), torch.from_numpy(truth.dequantize(data, kind)))


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3"])
@pytest.mark.parametrize("kind", [Kind.F16, Kind.Q8_0, Kind.Q4_K, Kind.Q6_K], ids=lambda kind: kind.name)
def test_all_tensors_have_the_names_and_rows_of_the_folder(family, kind, tmp_path):
    make(family, tmp_path / "hf", **WIDE)
    (tmp_path / "gguf").mkdir()
    stored = write_model(tmp_path / "hf", tmp_path / "gguf" / "x.gguf", as_kind(kind))
    reader = open_weights(tmp_path / "gguf")
    assert set(reader.names) == set(stored)
    for name, expected in stored.items():
        found = reader.read(name)
        dense = found.dense() if isinstance(found, Quantized) else found.float()
        torch.testing.assert_close(dense, torch.from_numpy(expected), rtol=0, atol=1e-6)


# ---------------------------------------------------------------- what is no sound file


def header(keys: bytes = b"", tensors: bytes = b"", n_keys: int = 0, n_tensors: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_keys) + keys + tensors


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def tensor(name: str = "t", shape: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


HUGE = 1 << 60
BROKEN = {
    "empty": (b"", "cannot be read"),
    "no magic": (b"GGML" + bytes(60), "magic"),
    "cut in the counts": (header()[:-3], "number of keys"),
    "version 1": (header(version=1), "version: found 1;"),
    "big endian": (header(version=3 << 24), "big endian"),
    "more keys than it can hold": (header(n_keys=HUGE), "number of keys: found a count of 1152921504606846976"),
    "more tensors than it can hold": (header(n_tensors=HUGE), "number of tensors"),
    "a long name": (header(struct.pack("<Q", HUGE) + bytes(60), n_keys=1), "key 0's name"),
    "a long text": (header(key("a.b", 8, struct.pack("<Q", HUGE)) + bytes(60), n_keys=1), "key a.b"),
    "no text": (header(key("a.b", 8, text(b"\xff\xfe")) + bytes(60), n_keys=1), "key a.b: found no UTF-8"),
    "a long array": (header(key("a.b", 9, struct.pack("<IQ", 10, 1 << 22)) + bytes(60), n_keys=1), "key a.b"),
    "an array too long": (header(key("a.b", 9, struct.pack("<IQ", 0, HUGE)) + bytes(60), n_keys=1), "key a.b"),
    "an array of arrays": (header(key("a.b", 9, struct.pack("<IQ", 9, 1)) + bytes(60), n_keys=1), "key a.b"),
    "an unknown value": (header(key("a.b", 13, bytes(8)) + bytes(60), n_keys=1), "key a.b: found of type 13"),
    "a bool of 2": (header(key("a.b", 7, b"\2") + bytes(60), n_keys=1), "key a.b: found the byte 2"),
    "a key twice": (header(2 * key("a.b", 7, b"\1") + bytes(60), n_keys=2), "key a.b: found there twice"),
    "alignment 0": (header(key("general.alignment", 4, bytes(4)) + bytes(60), n_keys=1), "key general.alignment"),
    "an alignment that is a text": (header(key("general.alignment", 8, text("x")) + bytes(60), n_keys=1), "alignment"),
    "no dimensions": (header(tensors=tensor(shape=()) + bytes(60), n_tensors=1), "tensor t: found of 0 dimensions"),
    "five dimensions": (header(tensors=tensor(shape=(1,) * 5) + bytes(60), n_tensors=1), "tensor t"),
    "an empty tensor": (header(tensors=tensor(shape=(0, 4)) + bytes(60), n_tensors=1), "tensor t"),
    "half a block": (header(tensors=tensor(shape=(33, 2), kind=8) + bytes(99), n_tensors=1), r"tensor t: found Q8_0"),
    "IQ2_XXS": (header(tensors=tensor(kind=16) + bytes(60), n_tensors=1), "tensor t: found of type IQ2_XXS"),
    "a type of nobody": (header(tensors=tensor(kind=77) + bytes(60), n_tensors=1), "tensor t: found of type 77"),
    "beyond the end": (header(tensors=tensor(shape=(64,)) + bytes(60), n_tensors=1), "tensor t: found 256 bytes"),
    "far beyond": (header(tensors=tensor(offset=1 << 62) + bytes(200), n_tensors=1), "tensor t"),
    "more than there is": (header(tensors=tensor(shape=(HUGE, HUGE)) + bytes(200), n_tensors=1), "tensor t"),
    "crooked": (header(tensors=tensor(offset=4) + bytes(300), n_tensors=1), "a multiple of 32"),
    "one over another": (header(tensors=tensor("a") + tensor("b", offset=96) + bytes(999), n_tensors=2), "tensor b"),
    "a tensor twice": (header(tensors=2 * tensor() + bytes(999), n_tensors=2), "tensor t: found there twice"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_an_error_that_names_the_place(name, tmp_path):
    data, place = BROKEN[name]
    path = tmp_path / "x.gguf"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=place) as caught:
        File(path)
    assert str(path) in caught.value.message


def test_a_file_that_is_not_there_or_a_folder_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "nothing.gguf"):
        with pytest.raises(ModelError, match="cannot be read"):
            File(path)


@pytest.mark.parametrize("alignment", ALIGNMENTS[:6])
def test_tensors_lie_where_the_alignment_says(alignment, tmp_path):
    writer = truth.GGUFWriter(tmp_path / "x.gguf", "qwen2")
    writer.add_custom_alignment(alignment)
    values = [np.arange(n, dtype=np.float32) for n in (3, 5, 70)]
    for i, value in enumerate(values):
        writer.add_tensor(f"blk.{i}.attn_norm.weight", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    reader = GgufReader(tmp_path / "x.gguf")
    for i, value in enumerate(values):
        assert reader.read(f"model.layers.{i}.input_layernorm.weight").tolist() == value.tolist()


def test_version_2_is_read(tmp_path):
    path = written(tmp_path / "x.gguf", output__weight=(np.ones((2, 2), np.float32), Kind.F32))
    data = bytearray(path.read_bytes())
    data[4:8] = struct.pack("<I", 2)
    path.write_bytes(data)
    assert GgufReader(path).read("lm_head.weight").tolist() == [[1, 1], [1, 1]]


def read_all(path: Path) -> list[torch.Tensor | Quantized]:
    reader = GgufReader(path)
    return [reader.read(name) for name in reader.names]


@pytest.mark.parametrize(
    ("name", "data", "kind", "place"),
    [
        ("blk__0__ffn_gate_exps__weight", np.ones((2, 2), np.float32), Kind.F32, "blk.0.ffn_gate_exps.weight has no"),
        ("model__norm__weight", np.ones(2, np.float32), Kind.F32, "tensor model.norm.weight has no place"),
        ("output_norm__weight", truth.quantize(np.ones(32, np.float32), Kind.Q8_0), Kind.Q8_0, "in matrices only"),
        ("output__weight", np.full((1, 34), 0xFF, np.uint8), Kind.Q8_0, "output.weight has a scale that is no number"),
    ],
)
def test_a_tensor_that_cannot_be_is_named(name, data, kind, place, tmp_path):
    path = written(tmp_path / "x.gguf", **{name: (data, kind)})
    with pytest.raises(ModelError, match=place):
        read_all(path)


def test_rows_that_are_no_whole_heads_are_named(tmp_path):
    make("Llama", tmp_path)
    write_model(tmp_path, tmp_path / "x.gguf", **{"attention.head_count": 3})
    with pytest.raises(ModelError, match=r"blk\.0\.attn_q\.weight has 32 rows; expected a multiple of 2 x 3 heads"):
        GgufReader(tmp_path / "x.gguf").read("model.layers.0.self_attn.q_proj.weight")


def test_one_file_is_expected_in_a_folder(tmp_path):
    for name in "ab":
        written(tmp_path / f"{name}.gguf", output__weight=(np.ones((2, 2), np.float32), Kind.F32))
    with pytest.raises(ModelError, match=r"has 2 \.gguf files"):
        open_weights(tmp_path)


def test_any_damage_is_an_error_or_a_sound_file(tmp_path):
    path = written(
        tmp_path / "x.gguf",
        output__weight=(random_blocks(Kind.Q4_K, (2, 256)), Kind.Q4_K),
        output_norm__weight=(np.ones(8, np.float32), Kind.F32),
        token_embd__weight=(random_blocks(Kind.Q6_K, (2, 256)), Kind.Q6_K),
    )
    sound = path.read_bytes()
    damaged = tmp_path / "damaged.gguf"
    assert len(read_all(path)) == 3

    @settings(max_examples=400, deadline=None, database=None)
    @given(st.integers(0, 400) | st.integers(0, len(sound) - 1), st.integers(0, 255), st.booleans())
    def run(at: int, byte: int, cut: bool) -> None:
        damaged.write_bytes(sound[:at] if cut else sound[:at] + bytes([byte]) + sound[at + 1 :])
        with contextlib.suppress(ModelError):
            for found in read_all(damaged):
                assert found.shape.numel() < 2 * len(sound), "more values than the file has bits for"

    run()
