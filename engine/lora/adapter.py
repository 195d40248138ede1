"""Where the modules of a checkpoint are in our model, an adapter in host memory, and one ready to be put there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ...kernels.embedding import Embedding, EmbeddingDelta
    from ...kernels.linear import Linear
    from ...kernels.lora import Delta


@dataclass(frozen=True, slots=True)
class Place:
    """A module of the checkpoint, and where it is in our model."""

    product: Linear | Embedding
    start: int = 0  # its outputs are rows [start, start + rows) of the (fused) product
    rows: int = 0  # 0: all of them
    transposed: bool = False  # the checkpoint holds its weight [in, out] (GPT-2)


class Places:
    """Module path -> Place, of one model. Paths are kept without `prefix`, and found with it or without.

    prefix: what stands before every path in transformers' model ("model.", "transformer.", ""), but for `outside`.
    """

    def __init__(self, prefix: str = "", outside: Iterable[str] = ("lm_head",)):
        self.prefix = prefix
        self.outside = frozenset(outside)  # the layer that gives logits
        self.squares: dict[int, Tensor] = {}  # id(product) -> squared norms of its weight's rows, once asked for
        self._places: dict[str, Place] = {}

    def add(self, module: str, place: Place) -> None:
        """module: its path, with the prefix or without."""
        self._places[module.removeprefix(self.prefix)] = place

    def find(self, module: str) -> Place | None:
        return self._places.get(module.removeprefix(self.prefix))

    def __getitem__(self, name: str) -> Place:
        return self._places[name]

    def name(self, module: str) -> str | None:
        """The path without the prefix, of a module that has a place."""
        name = module.removeprefix(self.prefix)
        return name if name in self._places else None

    def names(self) -> list[str]:
        """All paths, without the prefix, in the order in which they were added."""
        return list(self._places)

    def path(self, name: str) -> str:
        """The full path in transformers' model of a module in `names`."""
        return name if name in self.outside else self.prefix + name

    def twins(self, module: str) -> list[str]:
        """The other modules that have the very same weight (tied embeddings)."""
        product = self._places[module].product
        shared = product.shared
        others = [(n, p.product) for n, p in self._places.items() if p.product is not product]
        return [n for n, other in others if shared is not None and other.shared == shared]

    def __iter__(self) -> Iterator[tuple[str, Place]]:
        return iter(list(self._places.items()))

    def __len__(self) -> int:
        return len(self._places)


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What an adapter brings for one module, as it lies in the file.

    tensors, by role: a [rank, in] and b [rows, rank]; of an embedding a [rank, vocab] and b [width, rank]. b_bias, bias
    and magnitude (DoRA) [rows]. weight [rows, in], of an embedding [vocab, width], takes the base's place. gain
    [rows, 1] and gain_in [1, in] (IA3).
    """

    module: str  # without the prefix
    place: Place
    scale: float  # of b and b_bias
    tensors: Mapping[str, Tensor]

    def get(self, role: str) -> Tensor | None:
        return self.tensors.get(role)


@dataclass(frozen=True, slots=True, eq=False)
class Raw:
    """An adapter in host memory, checked against the model; never changed."""

    key: str  # hex, of content: weights, effective scales and the base
    name: str  # of its folder, for messages
    kind: str  # "LORA" | "IA3"
    parts: tuple[Part, ...]  # by module, in the order of their names
    rank: int  # the largest; 0 where nothing has a rank
    bytes: int
    base_name: str | None
    places: Places
    dtype: torch.dtype  # the model's, and where it is
    device: torch.device


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """Ready to use, never changed. Its tensors are on the model's device and have its dtype, but for factors that stay
    in 16 bits (`Piece`)."""

    key: str  # hex, of content: weights, effective scales, how they were merged, and the base
    changes: tuple[tuple[Linear | Embedding, Delta | EmbeddingDelta], ...]  # a product is there once
    rank: int  # the largest; 0 for an adapter without low-rank parts
    bytes: int  # of all tensors
    kind: str  # "LORA" | "IA3"; of several with " + " between
    base_name: str | None  # base_model_name_or_path of its config

    @property
    def deltas(self) -> dict[int, Delta | EmbeddingDelta]:
        """id(product) -> what it changes there. Products live as long as the model."""
        return {id(product): delta for product, delta in self.changes}
