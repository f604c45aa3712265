"""The arrays within a layer's cache, be they plain or quantized."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models.cache import BatchKVCache, KVCache


def arrays_of(entry: Any) -> list[mx.array]:
    """Keys, then values: arrays [rows, heads, tokens, ...], as many of either; none if empty.

    entry: what a model keeps for a layer, if that is keys and values of every token. Its
    arrays may have room for more tokens than it holds; all can be cut along that axis.
    """
    return [array for _, array in tree_flatten((entry.keys, entry.values)) if array is not None]


def fill(entry: Any, arrays: Sequence[mx.array], length: int) -> None:
    """Make arrays like those of `arrays_of` the content of an empty row's cache.

    length: how many tokens they hold.
    """
    half = len(arrays) // 2
    keys, values = tuple(arrays[:half]), tuple(arrays[half:])
    entry.state = (keys, values, length) if half > 1 else (*keys, *values, length)


def row_of(batch: Any, index: int) -> Any:
    """One row's cache out of a batch's; for plain caches it shows the batch's arrays.

    A copy of a long row costs more than what is usually wanted of it.
    """
    if type(batch) is not BatchKVCache:
        return batch.extract(index)
    begin, end = batch.left_padding.tolist()[index], batch.size()
    row = KVCache()
    fill(row, [array[index : index + 1, :, begin:end] for array in arrays_of(batch)], end - begin)
    return row
