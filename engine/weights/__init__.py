"""Weights by name, straight from the files of a model folder into fused parameters.

A model asks for each tensor it needs, with the shape it must have; what is missing, has another shape or is left over
is named. FORMATS says which reader a folder takes.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import torch

from ...kernels.linear import Part, keeps, packs_few
from ...kernels.memory import Room
from ...kernels.ops import Embedding, Linear, Norm
from ...kernels.quantized import Quantized
from ..errors import ModelError
from ..lora.adapter import Place, Places

log = logging.getLogger("quire.engine")

FORMATS = {  # pattern of a file in the folder -> module of this folder
    "*.safetensors": "safetensors_",
    "*.gguf": "gguf",
    "random.json": "random_",
}

CPU = torch.device("cpu")
KEPT = (torch.float32, torch.bfloat16, torch.float16)  # as a file has them; others take the kind that is computed in
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class Reader(Protocol):
    """What a format gives: names with sizes, and one tensor at a time."""

    names: dict[str, int]  # tensor -> bytes in its file

    def read(self, name: str) -> Part: ...  # a view of the file perhaps: copied before it is kept
    def where(self, name: str) -> str: ...


def open_weights(folder: Path, device: torch.device = CPU) -> Reader:
    """The reader for a folder. device: where its tensors are wanted; it may give them on the CPU all the same. Raises
    ModelError where there is nothing it may read."""
    for pattern, module in FORMATS.items():
        if any(folder.glob(pattern)):
            reader: Reader = importlib.import_module(f".{module}", __name__).open_folder(folder, device)
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
    nothing that is not computed. dtype: what is computed in. kept: the kind that products hold their weights in where
    the kernels multiply them as they are, None for that of the file. form: int8, int4 or fp8, to quantize the products
    (`Linear`); the head and a table that is the head get int8, for each of their rows decides about a token. fixed: a
    product's rows do not depend on each other (`Linear`).
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
        kept: torch.dtype | None = None,
        form: str | None = None,
        fixed: bool = False,
    ):
        self.dtype = dtype
        self._kept = kept
        self._form = form
        self._fixed = fixed
        self._products: list[Linear] = []
        self._room = Room()
        self.device = device
        self._reader = reader
        self._progress = progress
        self._harmless = harmless
        self._left: dict[str, str] = {}
        for name in reader.names:
            if (other := self._left.setdefault(name.removeprefix(prefix), name)) != name:
                raise ModelError(f"{reader.where(name)}: has {other} and {name}; expected one of the two")
        self._total = sum(reader.names.values())
        self._done = 0
        self.bytes = 0  # held by the parameters
        self.kinds: set[str] = set()  # that products hold
        self.places = Places(prefix)  # of what adapters may change

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def tensor(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """One tensor, in the model's dtype on its device; it can be taken once."""
        out = torch.empty(shape, dtype=self.dtype, device=self.device)
        found = self._take(name, shape)
        out.copy_(found.dense() if isinstance(found, Quantized) else found)
        self.bytes += out.nbytes
        return out

    def norm(self, name: str, width: int, eps: float) -> Norm:
        """The RMSNorm `name`, without ".weight"."""
        return Norm(self.tensor(f"{name}.weight", (width,)), eps)

    def embedding(self, name: str, shape: tuple[int, int], *, head: bool = False) -> Embedding:
        """The table `name`, without ".weight". head: it is the output head too; `tied_head` will ask for it."""
        part = self._placed(self._part(f"{name}.weight", shape))
        form = self._form and "int8"
        if head and (keeps([part], self.dtype) or packs_few([part], self.dtype, form)):
            product = self._product(name, [part], None, form)
            table = Embedding(product.table, self.dtype, fixed=self._fixed)
            self.bytes += product.bytes
            self.kinds.add(product.kind)
        else:
            weight = part.dense() if isinstance(part, Quantized) else part
            kind = weight.dtype if keeps([weight], self.dtype) else self.dtype
            # What a reader has given on a GPU is ours already.
            copy = self.device.type == "cpu"
            table = Embedding(weight.to(self.device, kind, copy=copy), self.dtype, fixed=self._fixed)
            self.bytes += weight.numel() * kind.itemsize
        self.places.add(name, Place(table))
        return table

    def tied(self, table: str) -> bool:
        """Whether a head that the config ties to `table` is that table: not where the file has both and they differ,
        as transformers has it. Names without ".weight"; the first to be asked."""
        names = [self._left.get(f"{name}.weight") for name in (table, "lm_head")]
        one, other = (self._reader.read(name) if name else None for name in names)
        if one is None or other is None:
            return True
        first, second = (part.dense() if isinstance(part, Quantized) else part for part in (one, other))
        kind = torch.promote_types(first.dtype, second.dtype)
        if torch.equal(first.to(kind), second.to(kind)):
            return True
        where = self._reader.where(str(names[1]))
        log.warning("%s: tensor %s is not the table that config.json ties it to, and is used as it is", where, names[1])
        return False

    def tied_head(self, table: Embedding) -> Linear:
        """A head that is the table of the embeddings."""
        self._left.pop("lm_head.weight", None)  # some files repeat it
        head = table.product()
        self._products.append(head)
        self.places.add("lm_head", Place(head))
        return head

    def linear(
        self, names: Iterable[str], inputs: int, outputs: Iterable[int], *, bias: bool = False, transposed: bool = False
    ) -> Linear:
        """One product from one or more matrices side by side: `names` without ".weight", each [outputs[i], inputs].

        transposed: the file holds [inputs, outputs] (GPT-2).
        """
        names, sizes = list(names), list(outputs)
        parts = []
        for name, size in zip(names, sizes, strict=True):
            parts.append(self._part(f"{name}.weight", (size, inputs), transposed))
        biases = (
            torch.cat([self.tensor(f"{name}.bias", (size,)) for name, size in zip(names, sizes, strict=True)])
            if (bias)
            else None
        )
        form = "int8" if self._form and names == ["lm_head"] else self._form
        product, row = self._product(" and ".join(names), parts, biases, form), 0
        self._products.append(product)
        self.bytes += product.bytes
        self.kinds.add(product.kind)
        for name, size in zip(names, sizes, strict=True):
            self.places.add(name, Place(product, row, size, transposed))
            row += size
        return product

    def _product(self, name: str, parts: list[Part], bias: torch.Tensor | None, form: str | None) -> Linear:
        parts = [self._placed(part) for part in parts]
        try:
            return Linear(parts, bias, computed=self.dtype, form=form, room=self._room, fixed=self._fixed)
        except ValueError as error:
            raise ModelError(f"{self._reader.where('')}: {name} cannot be packed: {error}") from error

    def _placed(self, part: Part) -> Part:
        """On the device, where a product is packed from it. On a GPU it is quantized there."""
        return part.to(self.device)

    def _means_nothing(self, full: str) -> bool:
        """Whether a tensor that nobody asked for may be left: quantizers write biases of zeros where there are none."""
        if full.endswith(self._harmless or ("\0",)):
            return True
        if not full.endswith(".bias"):
            return False
        found = self._reader.read(full)
        return isinstance(found, torch.Tensor) and not found.any()

    def _part(self, name: str, shape: tuple[int, int], transposed: bool = False) -> Part:
        """A matrix in the kind that it shall be kept in. transposed: so the file has it, if floating point."""
        found = self._take(name, shape, transposed)
        if isinstance(found, Quantized):
            return found
        found = found.T if transposed else found
        kind = self._kept or (found.dtype if found.dtype in KEPT else self.dtype)
        return found.to(kind)

    def finish(self) -> None:
        """Every tensor must have been taken. Raises ModelError naming those that were not."""
        extra = sorted(full for full in self._left.values() if not self._means_nothing(full))
        if extra:
            shown = ", ".join(extra[:5]) + (f" and {len(extra) - 5} more" if len(extra) > 5 else "")
            raise ModelError(
                f"{self._reader.where(extra[0])}: {len(extra)} tensors have no place in the model: {shown}"
            )
        if self.device.type == "cuda":
            for product in self._products:
                product.warm(self.dtype)
        self._progress(self._total, self._total)

    def _take(self, name: str, shape: tuple[int, ...], transposed: bool = False) -> Part:
        full = self._left.pop(name, None)
        if full is None:
            raise ModelError(f"{self._reader.where('')}: tensor {name} is missing; expected one of shape {list(shape)}")
        found = self._reader.read(full)
        if transposed and isinstance(found, torch.Tensor):
            shape = shape[::-1]
        if tuple(found.shape) != shape:
            raise ModelError(
                f"{self._reader.where(full)}: tensor {full} has shape {list(found.shape)}; expected {list(shape)}"
            )
        if isinstance(found, torch.Tensor) and not found.is_floating_point():
            raise ModelError(f"{self._reader.where(full)}: tensor {full} is {found.dtype}; expected floating point")
        self._done += self._reader.names[full]
        self._progress(self._done, self._total)
        return found
