"""The paged cache of keys and values, and how many pages fit the memory that is free (machine.py)."""

from __future__ import annotations

import logging
import math
from array import array
from itertools import accumulate, islice

import torch

from ..kernels.attention import Scratch
from ..kernels.memory import LARGE, anonymous, made_resident
from .attention import LayerSpec
from .config import BLOCK_SIZE, EngineConfig
from .errors import ConfigError

log = logging.getLogger("quire.engine")

# Share of the free memory that the pool may take where none is set: a GPU serves alone, a CPU's memory is shared.
UTILIZATION = {"cuda": 0.9, "cpu": 0.5}
LINE = 64  # bytes of which a page's parts begin at multiples
EARLY = 1 << 27  # bytes that lie ready for pages to come, at most


class KVCache:
    """Per-layer pages: k[i] [num_blocks + 1, kv_heads, BLOCK_SIZE, head_dim], v[i] the same with v_head_dim.

    Attention backends make it as they read it (`cache`). by_page: the last two dimensions of k change places, and all
    layers' shares of a page lie side by side, so that memory is first written a page at a time and not, every hundred
    pages, for all layers in one step. bfloat16 then lies in pairs (kernels/cpu/attention.h): k[i] [.., head_dim / 2,
    BLOCK_SIZE, 2], v[i] [.., BLOCK_SIZE / 2, v_head_dim, 2]. With int8 or float8_e4m3fn as dtype each token's key and
    value of a head are so many bytes, and count in units of k_units[i], v_units[i] [num_blocks + 1, kv_heads,
    BLOCK_SIZE], float32; else there are none.

    The last page belongs to nobody and stays zero: what is read beyond a sequence's end is read there. `scratch` is
    the attention backend's working memory, kept from step to step; `tables` what it keeps of the layers. `one_order`:
    whether a row's sums must have the same order in whatever step, also where a backend has a faster way for some.
    """

    def __init__(
        self,
        layers: list[LayerSpec],
        num_blocks: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        by_page: bool = False,
        one_order: bool = False,
    ):
        self.one_order = one_order
        self.num_blocks = num_blocks
        self.zero_page = num_blocks
        self.scratch = Scratch()
        self.tables: tuple[array[int], list[array[int]]] | None = None
        self._keys_across = by_page
        self._pairs = pairs = by_page and dtype == torch.bfloat16

        keys: list[tuple[int, ...]] = []
        values: list[tuple[int, ...]] = []
        units: list[tuple[int, ...]] = []
        for spec in layers:
            v_dim = spec.v_head_dim or spec.head_dim
            if pairs:
                keys.append((spec.kv_heads, -(-spec.head_dim // 2), BLOCK_SIZE, 2))
                values.append((spec.kv_heads, BLOCK_SIZE // 2, v_dim, 2))
            else:
                across = (spec.head_dim, BLOCK_SIZE) if by_page else (BLOCK_SIZE, spec.head_dim)
                keys.append((spec.kv_heads, *across))
                values.append((spec.kv_heads, BLOCK_SIZE, v_dim))
            units.append((spec.kv_heads, BLOCK_SIZE))
        units = units if dtype.itemsize == 1 else []
        wanted = [(shape, dtype) for shape in keys + values] + [(shape, torch.float32) for shape in units + units]
        pages = num_blocks + 1
        self._page_bytes, self._used, self._resident = 0, 0, 0
        self._room = torch.empty(0, dtype=torch.uint8)
        if by_page:
            self._page_bytes = sum(map(_lines, wanted))
            self._room = anonymous(pages * self._page_bytes)
            made = iter(_side_by_side(self._room, wanted, pages))
        else:
            made = iter(_apart(wanted, pages, device))
        self.k, self.v = list(islice(made, len(layers))), list(islice(made, len(layers)))
        self.k_units, self.v_units = list(islice(made, len(units))), list(islice(made, len(units)))

    def at(
        self, page: torch.Tensor, place: torch.Tensor
    ) -> list[tuple[torch.Tensor, tuple[torch.Tensor | slice, ...]]]:
        """Where some tokens lie: of keys, values, and the units of both, of all layers, the tensor and its index."""
        every = slice(None)
        keys = (page, every, every, place) if self._keys_across else (page, every, place)
        values = (page, every, place // 2, every, place % 2) if self._pairs else (page, every, place)
        units = self.k_units + self.v_units
        return [(x, keys) for x in self.k] + [(x, values) for x in self.v] + [(x, (page, every, place)) for x in units]

    def move(self, sources: list[int], targets: list[int]) -> None:
        """Keys and values of some slots (page * BLOCK_SIZE + offset) to others, all at once."""
        device = self.k[0].device
        old, new = (self.at(*_page_and_place(torch.tensor(slots, device=device))) for slots in (sources, targets))
        for (pages, before), (_, after) in zip(old, new, strict=True):
            pages[after] = pages[before]

    def reached(self, page: int) -> None:
        """A page is in use. Those that nobody has had yet are taken in their order (blocks.py)."""
        self._used = max(self._used, (page + 1) * self._page_bytes)

    def prepare(self) -> bool:
        """There is nothing to run: have a piece of memory ready for pages to come. Whether there was one to do."""
        self._resident = max(self._resident, self._used // LARGE * LARGE)
        if self._resident >= min(self._used + EARLY, len(self._room)):
            return False
        self._resident = made_resident(self._room, self._resident)
        return True

    @property
    def bytes(self) -> int:
        """Size of all pages that sequences can hold."""
        pages = self.k + self.v + self.k_units + self.v_units
        return sum(x.nbytes // (self.num_blocks + 1) * self.num_blocks for x in pages)


Wanted = tuple[tuple[int, ...], torch.dtype]  # of one page


def _apart(wanted: list[Wanted], pages: int, device: torch.device) -> list[torch.Tensor]:
    """[pages, *shape] each. Not zeroed: on the CPU a page takes memory when it is first written."""
    found = []
    for shape, dtype in wanted:
        if device.type == "cpu":
            found.append(anonymous(pages * math.prod(shape) * dtype.itemsize).view(dtype).view(pages, *shape))
        else:
            found.append(torch.empty((pages, *shape), dtype=dtype, device=device))
            found[-1][-1].zero_()
    return found


def _lines(wanted: Wanted) -> int:
    """Bytes that a page's part takes, to where the next begins."""
    shape, dtype = wanted
    return -(-math.prod(shape) * dtype.itemsize // LINE) * LINE


def _side_by_side(room: torch.Tensor, wanted: list[Wanted], pages: int) -> list[torch.Tensor]:
    """The same of `room`, uint8: of each page all that is wanted, then the next page."""
    sizes = [_lines(part) for part in wanted]
    page = sum(sizes)
    found = []
    for (shape, dtype), begin in zip(wanted, accumulate(sizes, initial=0), strict=False):
        inner = torch.empty(shape, device="meta").stride()
        strides = (page // dtype.itemsize, *inner)
        found.append(room.view(dtype).as_strided((pages, *shape), strides, begin // dtype.itemsize))
    return found


def _page_and_place(slots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return slots // BLOCK_SIZE, slots % BLOCK_SIZE


def bytes_per_token(layers: list[LayerSpec], dtype: torch.dtype) -> int:
    """Keys and values of one token in all layers; as bytes also the units they count in, two float32 for each head."""
    units = 8 if dtype.itemsize == 1 else 0
    return sum(s.kv_heads * ((s.head_dim + (s.v_head_dim or s.head_dim)) * dtype.itemsize + units) for s in layers)


def pool_blocks(
    layers: list[LayerSpec], dtype: torch.dtype, config: EngineConfig, free_bytes: int, device: torch.device
) -> int:
    """Blocks that fit: `memory_utilization` of the free bytes (by the device where unset), at most `kv_cache_memory`.

    Raises ConfigError where not even one fits.
    """
    share = config.memory_utilization or UTILIZATION[device.type]
    budget = int(free_bytes * share)
    if config.kv_cache_memory is not None:
        if budget < config.kv_cache_memory:
            log.warning(
                "kv_cache_memory is %d bytes, and the pool has %d: memory_utilization is %g, and %d bytes are free",
                config.kv_cache_memory, max(budget, 0), share, free_bytes,
            )  # fmt: skip
        budget = min(budget, config.kv_cache_memory)
    block = bytes_per_token(layers, dtype) * BLOCK_SIZE
    blocks = budget // block - 1  # one page more is the zero page
    if blocks < 1:
        field = "memory_utilization" if config.kv_cache_memory is None else "kv_cache_memory"
        raise ConfigError(
            field,
            f"leaves {max(budget, 0)} bytes for the KV cache ({free_bytes} bytes are free)",
            f"at least two blocks of {BLOCK_SIZE} tokens, {2 * block} bytes",
        )
    return blocks
