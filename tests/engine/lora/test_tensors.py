"""Safetensors from strangers: what the library reads is read, and whatever is damaged is refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from quire.engine.errors import RequestError
from quire.engine.lora.tensors import LONGEST_HEAD, TensorFile

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def written(path: Path, head: object, data: bytes = b"") -> Path:
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def read_all(path: Path) -> dict[str, torch.Tensor]:
    with TensorFile(path) as file:
        return {name: file.read(name) for name in file.entries}


def entry(dtype: str = "F32", shape: object = (2, 3), offsets: object = (0, 24)) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tensors=st.dictionaries(
        st.text(min_size=1, max_size=12).filter(lambda s: s.isprintable() and s != "__metadata__"),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 5), max_size=4)),
        max_size=6,
    ),
    metadata=st.none() | st.just({"format": "pt"}),
)
def test_what_the_library_writes_is_read_bit_for_bit(tmp_path, tensors, metadata):
    held = {name: torch.randn(shape).to(dtype) for name, (dtype, shape) in tensors.items()}
    save_file(held, tmp_path / "x", metadata=metadata)
    found, truth = read_all(tmp_path / "x"), load_file(tmp_path / "x")
    assert set(found) == set(truth)
    for name, tensor in truth.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_is_refused_or_still_holds_together(tmp_path, data):
    """Bytes changed, cut off or put in anywhere: never another error, never more than the file."""
    save_file({"a": torch.ones(3, 4), "b.c": torch.zeros(2, dtype=torch.bfloat16)}, tmp_path / "x")
    blob = bytearray((tmp_path / "x").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(blob)))
        how = data.draw(st.sampled_from(["set", "cut", "insert"]))
        if how == "cut":
            del blob[at : at + data.draw(st.integers(1, 40))]
        else:
            blob[at : at + (how == "set")] = data.draw(st.binary(min_size=1, max_size=8 if how == "insert" else 1))
    (tmp_path / "x").write_bytes(blob)
    refusal = None
    try:
        found = read_all(tmp_path / "x")
        assert sum(t.numel() * t.element_size() for t in found.values()) <= len(blob)
    except RequestError as error:
        refusal = error
    if refusal is not None:
        assert refusal.param == "path"
        assert refusal.message.startswith("x ")


ENTRY = json.dumps(entry(shape=[6])).encode()
BAD_HEADS = {
    "an absurd length": b"",
    "no JSON": b"{nonsense",
    "a list": [],
    "a number": 3,
    "no object": {"a": 3},
    "a field is missing": {"a": {"dtype": "F32", "shape": [1]}},
    "a field too many": {"a": {**entry(), "more": 1}},
    "a dtype of whole numbers": {"a": entry("I32")},
    "a dtype nobody knows": {"a": entry("F128")},
    "a dtype that is a list": {"a": entry(["F32"])},
    "a negative size": {"a": entry(shape=[-2, -3])},
    "a size that is true": {"a": entry(shape=[True, 6])},
    "a size that is real": {"a": entry(shape=[2.0, 3])},
    "a size that overflows": {"a": entry(shape=[2**62, 4])},
    "sizes whose product overflows": {"a": entry(shape=[2**40, 2**40, 0, 6])},
    "too many sizes": {"a": entry(shape=[1] * 99 + [6])},
    "offsets the wrong way": {"a": entry(offsets=[24, 0])},
    "one offset": {"a": entry(offsets=[0])},
    "bytes that do not fit the shape": {"a": entry(offsets=[0, 20])},
    "beyond the end": {"a": entry(offsets=[24, 48])},
    "a hole": {"a": entry(shape=[1], offsets=[0, 4]), "b": entry(shape=[1], offsets=[8, 12])},
    "an overlap": {"a": entry(), "b": entry()},
    "less than there is": {"a": entry(shape=[5], offsets=[0, 20])},
    "a name twice": b'{"a":' + ENTRY + b',"a":' + ENTRY + b"}",
    "deep": b"[" * 200_000,
    "not UTF-8": b'{"\xff\xfe": 1}',
    "a number of 5,000 digits": b'{"a": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("name", BAD_HEADS)
def test_heads_that_lie(name, tmp_path):
    head = BAD_HEADS[name]
    path = written(tmp_path / "x", head, bytes(24))
    if name == "an absurd length":
        path.write_bytes(struct.pack("<Q", 2**63) + bytes(100))
    with pytest.raises(RequestError, match=r"^x ") as error:
        read_all(path)
    assert error.value.param == "path"
    assert len(error.value.message) < 1000


@pytest.mark.parametrize("size", [0, 1, 7, 8])
def test_a_file_too_short_for_a_head(size, tmp_path):
    (tmp_path / "x").write_bytes(b"\1" * size)
    with pytest.raises(RequestError):
        read_all(tmp_path / "x")


def test_a_head_of_a_gigabyte_is_not_read(tmp_path):
    with open(tmp_path / "x", "wb") as file:
        file.write(struct.pack("<Q", 2**30))
        file.truncate(2**31)
    with pytest.raises(RequestError, match=f"{LONGEST_HEAD:,}"):
        read_all(tmp_path / "x")


def test_a_file_that_is_cut_while_it_is_read(tmp_path):
    save_file({"a": torch.ones(64, 64)}, tmp_path / "x")
    with TensorFile(tmp_path / "x") as file:
        with open(tmp_path / "x", "r+b") as other:
            other.truncate(5000)
        with pytest.raises(RequestError, match="ends within a"):
            file.read("a")


def test_tensors_are_aligned_wherever_they_lie(tmp_path):
    save_file({"a": torch.ones(3, dtype=torch.bfloat16), "b": torch.ones(5)}, tmp_path / "x")
    assert all(t.data_ptr() % 8 == 0 for t in read_all(tmp_path / "x").values())
