"""The pool of pages is sized from what is free, and says what it needs where that is too little."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quire.engine.attention import LayerSpec
from quire.engine.cache import KVCache, bytes_per_token, pool_blocks
from quire.engine.config import BLOCK_SIZE, EngineConfig
from quire.engine.errors import ConfigError

CPU = torch.device("cpu")
CPU = torch.device("cpu")
LAYERS = [
    LayerSpec(heads=8, kv_heads=2, head_dim=64, scale=1.0),
    LayerSpec(heads=8, kv_heads=4, head_dim=32, scale=1.0, v_head_dim=16),
]
MIB = 1 << 20


def test_bytes_per_token_count_keys_and_values_of_every_layer():
    assert bytes_per_token(LAYERS, torch.float32) == (2 * 128 + 4 * 48) * 4
    assert bytes_per_token(LAYERS, torch.bfloat16) == (2 * 128 + 4 * 48) * 2


@pytest.mark.parametrize("by_page", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int8])
def test_cache_has_the_bytes_that_were_counted(by_page, dtype):
    cache = KVCache(LAYERS, 10, dtype, CPU, by_page=by_page)
    assert cache.bytes == 10 * BLOCK_SIZE * bytes_per_token(LAYERS, dtype)
    slots = torch.arange(11), torch.arange(11)
    of_layers = [x[where].flatten(2) for x, where in cache.at(*slots)[:4]]
    assert [x.shape[1:] for x in of_layers] == [(2, 64), (4, 32), (2, 64), (4, 16)]
    assert all(x.numel() % (11 * BLOCK_SIZE) == 0 for x in cache.k + cache.v)
    assert cache.zero_page == 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_by_page_all_layers_of_a_page_lie_between_it_and_the_next(dtype):
    cache = KVCache(LAYERS, 10, dtype, CPU, by_page=True)
    parts = [*cache.k, *cache.v, *cache.k_units, *cache.v_units]
    assert len(parts) == (8 if dtype == torch.int8 else 4)
    for number, part in enumerate(parts):
        part.fill_(number + 1)
    assert all((part == number + 1).all() for number, part in enumerate(parts)), "two of them share a place"
    first = min(part.data_ptr() for part in parts)
    page = BLOCK_SIZE * bytes_per_token(LAYERS, dtype)
    for part in parts:
        assert part.stride(0) * part.itemsize == page
        assert part[0].is_contiguous()
        assert first <= part[3].data_ptr() - 3 * page <= first + page - part[3].nbytes


@given(
    free=st.integers(MIB, 1 << 40),
    cap=st.none() | st.integers(MIB, 1 << 40),
    share=st.floats(0.5, 1.0),
)
def test_the_pool_never_takes_more_than_its_share_or_its_cap(free, cap, share):
    config = EngineConfig(model="m", kv_cache_memory=cap, memory_utilization=share)
    blocks = pool_blocks(LAYERS, torch.float32, config, free, CPU)
    block = BLOCK_SIZE * bytes_per_token(LAYERS, torch.float32)
    taken = (blocks + 1) * block
    allowed = min(int(free * share), cap or free)
    assert taken <= allowed < taken + block


def test_a_pool_that_is_smaller_than_was_asked_for_is_told_of(caplog):
    for asked, told in ((400 * MIB, 0), (700 * MIB, 1)):
        config = EngineConfig(model="m", kv_cache_memory=asked, memory_utilization=0.5)
        pool_blocks(LAYERS, torch.float32, config, 1000 * MIB, CPU)
        assert len(caplog.records) == told
    said = "kv_cache_memory is 734003200 bytes, and the pool has 524288000: memory_utilization is 0.5"
    assert said in caplog.text


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory in use from /proc")
@pytest.mark.parametrize("by_page", [False, True])
def test_an_idle_pool_takes_no_memory(by_page):
    resident = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * 4096  # noqa: E731
    before = resident()
    pages = (2 << 30) // (BLOCK_SIZE * bytes_per_token(LAYERS, torch.float32))
    cache = KVCache(LAYERS, pages, torch.float32, CPU, by_page=by_page)
    assert cache.bytes > 1 << 30
    assert resident() - before < 64 * MIB
    assert not any(pages[-1].any() for pages in cache.k + cache.v)


def test_idle_moments_have_memory_ready_ahead_of_the_pages_in_use(monkeypatch):
    monkeypatch.setattr("quire.engine.cache.EARLY", 16 * MIB)
    page = BLOCK_SIZE * bytes_per_token(LAYERS, torch.float32)
    cache = KVCache(LAYERS, 64 * MIB // page, torch.float32, CPU, by_page=True)
    used = 5 * MIB // page
    for pages in cache.k + cache.v:
        pages[: used + 1] = 7.0
    cache.reached(used)
    pieces = 0
    while cache.prepare():
        pieces += 1
    assert pieces == 9, "from the large page that holds the last one in use, to 16 MiB beyond that"
    assert not cache.prepare()
    assert all((pages[: used + 1] == 7).all() and not pages[used + 1 :].any() for pages in cache.k + cache.v)
    cache.reached(used - 1)
    assert not cache.prepare(), "less is in use than before"
    cache.reached(cache.num_blocks - 1)
    while cache.prepare():
        pieces += 1
    assert pieces <= 33, "no further than the pool"


def test_what_is_not_by_page_has_nothing_to_prepare():
    assert not KVCache(LAYERS, 100, torch.float32, CPU).prepare()


def test_a_pool_too_small_for_a_block_names_the_setting_and_the_numbers():
    with pytest.raises(ConfigError, match=r"kv_cache_memory leaves 1000 bytes .* at least two blocks"):
        pool_blocks(LAYERS, torch.float32, EngineConfig(model="m", kv_cache_memory=1000), 1 << 40, CPU)
    with pytest.raises(ConfigError, match="memory_utilization"):
        pool_blocks(LAYERS, torch.float32, EngineConfig(model="m"), -5, CPU)
