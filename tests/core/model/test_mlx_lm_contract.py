"""What we use of mlx-lm beside its models: a version that differs fails here first."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.cache import (
    ArraysCache,
    BatchKVCache,
    BatchRotatingKVCache,
    CacheList,
    KVCache,
    RotatingKVCache,
)

from budmlx.core.model.memory import arrays_of

BATCH_METHODS = ("extend", "extract", "filter", "finalize", "prepare")


def row(length: int, kind: type = KVCache, *settings: int) -> object:
    cache = kind(*settings)
    numbers = mx.arange(length, dtype=mx.float32)[None, None, :, None]
    cache.update_and_fetch(numbers, -numbers)
    return cache


@pytest.mark.parametrize("kind", [BatchKVCache, BatchRotatingKVCache, ArraysCache, CacheList])
def test_batch_caches_have_the_methods(kind: type) -> None:
    assert all(callable(getattr(kind, name)) for name in BATCH_METHODS)
    assert callable(kind.merge)


def test_a_row_is_its_arrays_and_their_length() -> None:
    cache = row(3)
    assert (cache.size(), cache.offset, cache.empty()) == (3, 3, False)
    keys, values = arrays_of(cache)
    assert keys.shape[2] >= 3 and keys[0, 0, :3, 0].tolist() == [0, 1, 2]
    assert values[0, 0, :3, 0].tolist() == [0, -1, -2]


def test_a_batch_is_a_rectangle_padded_on_the_left() -> None:
    batch = KVCache.merge([row(3), row(1)])
    assert type(batch) is BatchKVCache
    keys, values, offset, left_padding, end = batch.state
    assert (offset.tolist(), left_padding.tolist(), end) == ([3, 1], [0, 2], 3)
    assert batch.size() == 3
    assert keys[1, 0, 2, 0].item() == 0 and values[0, 0, 2, 0].item() == -2
    batch.state = (keys, values, offset, left_padding, 2)
    assert batch.size() == 2


def test_a_batch_steps_at_its_end() -> None:
    batch = KVCache.merge([row(3), row(1)])
    new = mx.full((2, 1, 1, 1), 9.0)
    keys, _ = batch.update_and_fetch(new, new)
    assert keys[:, 0, :, 0].tolist() == [[0, 1, 2, 9], [0, 0, 0, 9]]
    assert batch.extract(1).keys[0, 0, :, 0].tolist() == [0, 9]
    mask = batch.make_mask(1, return_array=True)
    assert mask.reshape(2, -1)[:, :4].tolist() == [[True] * 4, [False, False, True, True]]


def test_a_window_forgets() -> None:
    window = row(9, RotatingKVCache, 4)
    assert window.max_size == 4
    assert RotatingKVCache.merge([window, row(2, RotatingKVCache, 4)]).extract(1).offset == 2


def test_a_batch_of_windows_ends_at_one_place() -> None:
    """In order, after `_temporal_order`; and its state can be set."""
    batch = RotatingKVCache.merge([row(9, RotatingKVCache, 4), row(2, RotatingKVCache, 4)])
    assert type(batch) is BatchRotatingKVCache
    new = mx.full((2, 1, 1, 1), 9.0)
    batch.update_and_fetch(new, new)
    batch._temporal_order()
    assert batch.keys[:, 0, :, 0].tolist() == [[6, 7, 8, 9], [0, 0, 1, 9]] and batch._idx == 4
    keys, values, offset, _, window, *_ = batch.state
    assert (offset.tolist(), window) == ([10, 3], 4)
    batch.state = (keys, values, offset, mx.array([0, 1]), window, 4, 4, False)
    for number in (10.0, 11.0):
        new = mx.full((2, 1, 1, 1), number)
        mask = np.array(batch.make_mask(1))[:, 0, 0]
        seen = np.array(batch.update_and_fetch(new, new)[0])[:, 0, :, 0]
    rows = [sorted(numbers[allowed].tolist()) for numbers, allowed in zip(seen, mask, strict=True)]
    assert rows == [[8, 9, 10, 11], [1, 9, 10, 11]]
