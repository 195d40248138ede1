"""Weights by name, straight from the files of a model folder into fused parameters.

A model asks for each tensor it needs, with the shape it must have; what is missing, has another shape or is left over
is named. FORMATS says which reader a folder takes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import torch

from ...kernels.ops import Embedding, Linear
from ..errors import ModelError
from ..lora.adapter import Place, Places

FORMATS = {  # pattern of a file in the folder -> module of this folder
    "*.safetensors": "safetensors_",
}

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class Reader(Protocol):
    """What a format gives: names with sizes, and one tensor at a time."""

    names: dict[str, int]  # tensor -> bytes in its file

    def read(self, name: str) -> torch.Tensor: ...
    def where(self, name: str) -> str: ...


def open_weights(folder: Path) -> Reader:
    """The reader for a folder. Raises ModelError where there is nothing it may read."""
    for pattern, module in FORMATS.items():
        if any(folder.glob(pattern)):
            reader: Reader = importlib.import_module(f".{module}", __name__).open_folder(folder)
            return reader
    pickles = sorted(p.name for pattern in PICKLES for p in folder.glob(pattern))
    if pickles:
        raise ModelError(
            f"{folder / pickles[0]}: a pickle file can run any code when it is opened, so it is not; "
            "expected *.safetensors (convert it with transformers: save_pretrained)"
        )
    raise ModelError(f"{folder}: no weights; expected *.safetensors")


class Weights:
    """The tensors of one model, taken out one by one.

    prefix: what stands before every name in some checkpoints of the family and not in others ("model.",
    "transformer."); names are asked for without it. harmless: ends of names that may be left over, because they hold
    nothing that is not computed.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        dtype: torch.dtype,
        device: torch.device,
        progress: Callable[[int, int], None],
        prefix: str = "",
        harmless: tuple[str, ...] = (),
    ):
        self.dtype = dtype
        self.device = device
        self._reader = reader
        self._progress = progress
        self._harmless = harmless
        self._left = {name.removeprefix(prefix): name for name in reader.names}
        self._total = sum(reader.names.values())
        self._done = 0
        self.bytes = 0  # held by the parameters
        self.places = Places(prefix)  # of what adapters may change

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def tensor(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """One tensor, in the model's dtype on its device; it can be taken once."""
        out = torch.empty(shape, dtype=self.dtype, device=self.device)
        out.copy_(self._take(name, shape))
        self.bytes += out.numel() * out.element_size()
        return out

    def embedding(self, name: str, shape: tuple[int, int]) -> Embedding:
        """The table `name`, without ".weight"."""
        table = Embedding(self.tensor(f"{name}.weight", shape))
        self.places.add(name, Place(table))
        return table

    def tied_head(self, table: Embedding) -> Linear:
        """A head that is the table of the embeddings."""
        self._left.pop("lm_head.weight", None)  # some files repeat it
        head = Linear(table.weight, pack=False)
        self.places.add("lm_head", Place(head))
        return head

    def linear(
        self, names: Iterable[str], inputs: int, outputs: Iterable[int], *, bias: bool = False, transposed: bool = False
    ) -> Linear:
        """One product from one or more matrices side by side: `names` without ".weight", each [outputs[i], inputs].

        transposed: the file holds [inputs, outputs] (GPT-2).
        """
        names, sizes = list(names), list(outputs)
        weight = torch.empty((sum(sizes), inputs), dtype=self.dtype, device=self.device)
        biases = torch.empty(sum(sizes), dtype=self.dtype, device=self.device) if bias else None
        row = 0
        for name, size in zip(names, sizes, strict=True):
            found = self._take(f"{name}.weight", (inputs, size) if transposed else (size, inputs))
            weight[row : row + size] = found.T if transposed else found
            if biases is not None:
                biases[row : row + size] = self._take(f"{name}.bias", (size,))
            row += size
        self.bytes += weight.numel() * weight.element_size()
        product, row = Linear(weight, biases), 0
        for name, size in zip(names, sizes, strict=True):
            self.places.add(name, Place(product, row, size, transposed))
            row += size
        return product

    def finish(self) -> None:
        """Every tensor must have been taken. Raises ModelError naming those that were not."""
        extra = sorted(full for full in self._left.values() if not full.endswith(self._harmless or ("\0",)))
        if extra:
            shown = ", ".join(extra[:5]) + (f" and {len(extra) - 5} more" if len(extra) > 5 else "")
            raise ModelError(
                f"{self._reader.where(extra[0])}: {len(extra)} tensors have no place in the model: {shown}"
            )
        self._progress(self._total, self._total)

    def _take(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        full = self._left.pop(name, None)
        if full is None:
            raise ModelError(f"{self._reader.where('')}: tensor {name} is missing; expected one of shape {list(shape)}")
        found = self._reader.read(full)
        if tuple(found.shape) != shape:
            raise ModelError(
                f"{self._reader.where(full)}: tensor {full} has shape {list(found.shape)}; expected {list(shape)}"
            )
        if not found.is_floating_point():
            raise ModelError(f"{self._reader.where(full)}: tensor {full} is {found.dtype}; expected floating point")
        self._done += self._reader.names[full]
        self._progress(self._done, self._total)
        return found
