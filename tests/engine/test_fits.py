"""Weights that do not fit the memory are refused with the numbers, before the first of them is read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from quire.engine.errors import ConfigError, ModelError
from quire.engine.models import fits
from quire.engine.models.load import load_model
from quire.engine.weights.safetensors_ import SafetensorsReader
from quire.kernels import native

CPU = torch.device("cpu")
CUDA = torch.device("cuda")


def folder_of(folder: Path, name: str = "model.safetensors", **tensors: torch.Tensor) -> Path:
    save_file(tensors, folder / name)
    return folder


@pytest.fixture
def mixed(tmp_path) -> Path:
    return folder_of(
        tmp_path,
        matrix=torch.zeros(100, 64, dtype=torch.bfloat16),
        wide=torch.zeros(100, 64, dtype=torch.float32),
        norm=torch.zeros(64, dtype=torch.float32),
        packed=torch.zeros(100, 8, dtype=torch.int32),
        eighth=torch.zeros(100, 64).to(torch.float8_e4m3fn),
        left=torch.zeros(1000, 64),
    )


FIXED = 100 * 8 * 4 + 100 * 64  # of whole numbers and of e4m3, whatever is wanted


@pytest.mark.parametrize(("kept", "form", "wanted"), [
    (None, None, 6400 * 2 + 6400 * 4 + 64 * 4),
    (torch.bfloat16, None, 6400 * 4 + 64 * 2),
    (torch.float32, None, 6400 * 8 + 64 * 4),
    (None, "int8", 6400 * 2 + 64 * 4),
    (torch.float16, "int4", 6400 + 64 * 2),
    (torch.float16, "fp8", 6400 * 2 + 64 * 2),
])  # fmt: skip
def test_what_weights_take_is_counted_from_their_headers(mixed, kept, form, wanted):
    assert fits.weight_bytes(mixed, kept, form=form, left=("left",)) == wanted + FIXED


def test_files_beside_the_model_are_not_counted(mixed):
    """Mistral's folders have all weights once more, in a file of another layout."""
    size = fits.weight_bytes(mixed, None)
    folder_of(mixed, name="consolidated.safetensors", matrix=torch.zeros(1000, 64))
    assert fits.weight_bytes(mixed, None) == size


def test_what_does_not_fit_is_told_with_the_ways_out(mixed, monkeypatch):
    monkeypatch.setattr(fits, "free_memory", lambda device: 20_000)
    with pytest.raises(ConfigError) as caught:
        fits.check(mixed, CUDA, torch.float32, left=("left", "eighth"))
    assert caught.value.message == (
        "device is 'cuda', which has 0.0 MiB of free memory, and the weights take 0.1 MiB; "
        "expected more memory or quantization int8 (0.0 MiB) or quantization int4 (0.0 MiB) or a smaller model"
    )
    with pytest.raises(ConfigError, match="expected more memory or a smaller model"):
        fits.check(mixed, CUDA, torch.float32, form="int8")
    monkeypatch.setattr(fits, "free_memory", lambda device: 60_000)
    fits.check(mixed, CUDA, torch.bfloat16, left=("left", "eighth"))


@pytest.mark.parametrize("content", [b"", b"12345678", (1 << 62).to_bytes(8, "little"), b"\x02" + bytes(7) + b"[]",
                                     b"\x08" + bytes(7) + b'{"a": 1}'])  # fmt: skip
def test_a_damaged_header_is_for_the_reader_to_tell(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    assert fits.weight_bytes(tmp_path, None) == 0
    fits.check(tmp_path, CPU, None)


@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
@pytest.mark.parametrize("quantization", [None, "int8", "int4"])
def test_no_more_is_counted_than_a_model_really_takes(stories, tmp_path, dtype, quantization):
    if quantization is not None and not native.serves(torch.float32, CPU):
        pytest.skip("the C++ kernels were not built")
    counted: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fits, "free_memory", lambda device: counted.append(0) or 1 << 60)
        real = fits.weight_bytes
        patch.setattr(fits, "weight_bytes", lambda *a, **k: counted.append(real(*a, **k)) or counted[-1])
        model = load_model(stories, dtype=dtype, device=CPU, quantization=quantization)
    assert 0 < max(counted) <= model.weight_bytes
    assert max(counted) > 0.5 * model.weight_bytes


@pytest.mark.parametrize("impl", ["quire", "transformers"])
def test_no_tensor_is_read_of_a_model_that_does_not_fit(stories, monkeypatch, impl):
    def read(self, name):
        raise AssertionError(f"{name} was read")

    monkeypatch.setattr(SafetensorsReader, "read", read)
    monkeypatch.setattr(fits, "free_memory", lambda device: 1000)
    with pytest.raises(ConfigError, match=r"device is 'cpu', which has 0.0 MiB of free memory, and the weights take"):
        load_model(stories, dtype="auto", device=CPU, impl=impl)


def test_a_model_that_is_not_there_is_still_named(tmp_path, stories, monkeypatch):
    monkeypatch.setattr(fits, "free_memory", lambda device: 1000)
    (tmp_path / "config.json").write_bytes((stories / "config.json").read_bytes())
    with pytest.raises(ModelError, match="no weights"):
        load_model(tmp_path, dtype="auto", device=CPU)
    assert load_file(stories / "model.safetensors"), "and this one is there"
