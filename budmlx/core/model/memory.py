"""Memory: the arrays of a layer's KV cache, the bytes that MLX has in use, and those of rows,
projected before anything is allocated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models.cache import ArraysCache, BatchKVCache, CacheList, KVCache

from budmlx.core.model.scores import StoredScores
from budmlx.core.model.shape import Shape
from budmlx.protocol import MemoryUse

# mlx-lm's caches grow in steps of this many tokens.
CACHE_STEP = 256


def scale(number: int, least: int) -> int:
    """The power of two that a number belongs to; all up to `least` belong together.

    Numbers of rows and tokens that belong together run the same kernels.
    """
    return max(number, least).bit_length()


def arrays_of(entry: Any) -> list[mx.array]:
    """Keys, then values: arrays [rows, heads, tokens, ...], as many of either; none if empty.

    entry: what a model keeps for a layer, if that is keys and values of every token. Its
    arrays may have room for more tokens than it holds; all can be cut along that axis.
    """
    return [array for _, array in tree_flatten((entry.keys, entry.values)) if array is not None]


def fill(entry: Any, arrays: Sequence[mx.array], length: int) -> None:
    """Set the content of a row's empty cache.

    arrays: as `arrays_of` returns them, [1, heads, tokens, ...]. length: tokens that they hold.
    """
    half = len(arrays) // 2
    keys, values = tuple(arrays[:half]), tuple(arrays[half:])
    entry.state = (keys, values, length) if half > 1 else (*keys, *values, length)


def row_of(batch: Any, index: int) -> Any:
    """One row's cache out of a batch's; that of plain caches is a view of the batch's arrays.

    A copy of a long row costs more than what is usually wanted of it.
    """
    if type(batch) is not BatchKVCache:
        return batch.extract(index)
    begin, end = batch.left_padding.tolist()[index], batch.size()
    row = KVCache()
    fill(row, [array[index : index + 1, :, begin:end] for array in arrays_of(batch)], end - begin)
    return row


def memory_use() -> MemoryUse:
    """The bytes that MLX has now, and had at most."""
    return MemoryUse(mx.get_active_memory(), mx.get_cache_memory(), mx.get_peak_memory())


@dataclass(frozen=True, slots=True)
class CacheLayer:
    """Bytes of one row's cache in one layer.

    per_token: bytes for each token kept. window: most tokens kept; None keeps all.
    fixed: bytes whatever the length (recurrent state).
    """

    per_token: int = 0
    window: int | None = None
    fixed: int = 0

    def row_bytes(self, length: int) -> int:
        """Bytes of a row of `length` tokens, with the growth step of the cache."""
        kept = length if self.window is None else min(length, self.window)
        return self.fixed + self.per_token * -(-kept // CACHE_STEP) * CACHE_STEP


def probe_layers(cache: Iterable[Any], chunk: int) -> tuple[CacheLayer, ...]:
    """The layout of a single row's cache after a (lazy) forward pass of one token.

    chunk: most tokens of one forward pass; a windowed cache keeps them beside its window.
    """
    layers: list[CacheLayer] = []
    for entry in cache:
        if isinstance(entry, CacheList):
            layers.extend(probe_layers(entry.caches, chunk))
        elif isinstance(entry, ArraysCache):
            layers.append(CacheLayer(fixed=entry.nbytes))
        elif entry.empty():
            layers.append(CacheLayer())
        else:
            window = getattr(entry, "max_size", None) or getattr(entry, "chunk_size", None)
            per_token = sum(x.nbytes // x.shape[2] for x in arrays_of(entry) if x.shape[2])
            kept = None if window is None else window + chunk
            layers.append(CacheLayer(per_token=per_token, window=kept))
    return tuple(layers)


def state_arrays(cache: Iterable[Any]) -> list[mx.array]:
    """The arrays that a row's state consists of, of whatever kind its entries are."""
    leaves = (leaf for _, leaf in tree_flatten([entry.state for entry in cache]))
    return [leaf for leaf in leaves if isinstance(leaf, mx.array)]


@dataclass(frozen=True, slots=True)
class MemoryModel:
    """Projection of memory in bytes: upper bounds, which a test compares with measured peaks.

    limit: bytes that may be used. weights: bytes of the model. scores: those of attention that
    are stored. arrays: the number of them in the state of a row.
    """

    limit: int
    weights: int
    layers: tuple[CacheLayer, ...]
    shape: Shape
    scores: StoredScores
    arrays: int

    def row(self, length: int) -> int:
        """KV bytes of one row of `length` tokens."""
        return sum(layer.row_bytes(length) for layer in self.layers)

    def rectangle(self, lengths: Sequence[int]) -> int:
        """KV bytes of rows that share a batch: all are padded to the longest."""
        return len(lengths) * self.row(max(lengths)) if lengths else 0

    def activations(self, rows: int, tokens: int, length: int) -> int:
        """Bytes that a forward pass of `rows` times `tokens` over `length` tokens needs."""
        s = self.shape
        width = 6 * s.hidden + 3 * s.intermediate
        stored = self.scores.prefill if tokens > 1 else self.scores.decode
        # Before and after the softmax; of half precision, two more copies on the way.
        scores = 2 * s.heads * length * 4 if stored else 0
        return rows * tokens * (width * max(s.itemsize, 4) + scores) + rows * s.vocab * 16

    def total(self, groups: Sequence[Sequence[int]], chunk: int) -> int:
        """Peak bytes of running `groups` (the lengths of their rows) and a prefill chunk.

        One more copy of the largest group covers the transient of a merge or an extend.
        """
        rectangles = [self.rectangle(lengths) for lengths in groups]
        longest = max((max(lengths) for lengths in groups), default=0)
        rows = max((len(lengths) for lengths in groups), default=0)
        return (
            self.weights
            + sum(rectangles)
            + max(rectangles, default=0)
            + max(self.activations(1, chunk, longest), self.activations(rows, 1, longest))
        )

    def longest_row(self, context: int, chunk: int) -> int:
        """Most tokens that a row alone can have within the limit, at most `context`."""
        low, high = 0, context
        while low < high:
            middle = (low + high + 1) // 2
            fits = self.total([[middle]], min(chunk, middle)) <= self.limit
            low, high = (middle, high) if fits else (low, middle - 1)
        return low
