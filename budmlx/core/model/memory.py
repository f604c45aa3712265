"""Memory: the arrays of a layer's KV cache, the bytes that MLX has in use, and those of rows,
projected before anything is allocated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm.models.cache import (
    ArraysCache,
    BatchKVCache,
    BatchRotatingKVCache,
    CacheList,
    KVCache,
    RotatingKVCache,
)

from budmlx.core.model.scores import StoredScores
from budmlx.core.model.shape import Shape
from budmlx.protocol import MemoryUse

# mlx-lm's caches grow in steps of this many tokens.
CACHE_STEP = 256
# Layers whose quantized keys and values may be unpacked at the same time.
UNPACKED_LAYERS = 2


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


def state_arrays(caches: Iterable[Any]) -> list[mx.array]:
    """All arrays of caches, one entry per layer, of whatever kind they are."""
    leaves = (leaf for _, leaf in tree_flatten([entry.state for entry in caches]))
    return [leaf for leaf in leaves if isinstance(leaf, mx.array)]


def row_of(batch: Any, index: int, held: int) -> Any:
    """One row's cache out of a batch's, as its `extract` gives it.

    That of plain caches is a view of the batch's arrays: a copy of a long row costs more than
    what is usually wanted of it.

    held: tokens of the row that the cache has seen. The batch has such numbers as arrays; to read
    them is to wait for the step in flight.
    """
    if isinstance(batch, CacheList):
        return CacheList(*(row_of(entry, index, held) for entry in batch.caches))
    if type(batch) is BatchKVCache:
        end, row = batch.size(), KVCache()
        fill(row, _cut(arrays_of(batch), index, end - held, end), held)
        return row
    if type(batch) is not BatchRotatingKVCache or batch.keys.shape[2] > batch.max_size:
        return batch.extract(index)
    arrays, end = arrays_of(batch), batch._idx
    if batch.rotated:
        arrays = [mx.roll(array[index : index + 1], -end, axis=2) for array in arrays]
        index, end = 0, batch.max_size
    kept, row = min(held, batch.max_size), RotatingKVCache(batch.max_size)
    row.keys, row.values = _cut(arrays, index, end - kept, end)
    row.offset, row._idx = held, kept
    return row


def _cut(arrays: Sequence[mx.array], index: int, begin: int, end: int) -> list[mx.array]:
    return [array[index : index + 1, :, begin:end] for array in arrays]


def keep_rows(batch: Any, rows: Sequence[int], held: Sequence[int]) -> None:
    """Drop all rows of a batch's cache but these, as its `filter` does.

    held: tokens of each that the cache has seen; see `row_of`.
    """
    if isinstance(batch, CacheList):
        for entry in batch.caches:
            keep_rows(entry, rows, held)
    elif type(batch) is BatchKVCache and not batch.empty():
        end, selected = max(held), mx.array(rows)
        needless = batch.size() - end
        keys, values = (array[selected][..., needless:, :] for array in arrays_of(batch))
        padding = mx.array([end - each for each in held])
        batch.state = (keys, values, mx.array(held), padding, end)
    else:
        batch.filter(mx.array(rows))


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


@dataclass(frozen=True, slots=True)
class MemoryModel:
    """Projection of memory in bytes: upper bounds, which a test compares with measured peaks.

    limit: bytes that may be used. weights: bytes of the model. scores: those of attention that
    are stored. arrays: the number of them in the state of a row.
    unpacked: bytes of a token that a layer with quantized keys and values unpacks for attention.
    copied: bytes of adapters' matrices that a layer copies for each row.
    places: tokens that a step with drafts feeds to all rows together at most, 0 if none drafts.
    drafter: what the draft model takes, which has the same rows; its weights are among `weights`.
    """

    limit: int
    weights: int
    layers: tuple[CacheLayer, ...]
    shape: Shape
    scores: StoredScores
    arrays: int
    unpacked: int = 0
    copied: int = 0
    places: int = 0
    drafter: MemoryModel | None = None

    def row(self, length: int) -> int:
        """KV bytes of one row of `length` tokens."""
        return sum(layer.row_bytes(length) for layer in self.layers)

    def rectangle(self, lengths: Sequence[int]) -> int:
        """KV bytes of rows that share a batch: all are padded to the longest."""
        own = len(lengths) * self.row(max(lengths)) if lengths else 0
        return own if self.drafter is None else own + self.drafter.rectangle(lengths)

    def activations(self, rows: int, tokens: int, length: int) -> int:
        """Bytes that a forward pass of `rows` times `tokens` over `length` tokens needs."""
        s = self.shape
        width = 6 * s.hidden + 3 * s.intermediate
        stored = self.scores.prefill if tokens > 1 else self.scores.decode
        # Before and after the softmax; of half precision, two more copies on the way.
        scores = 2 * s.heads * length * 4 if stored else 0
        unpacked = UNPACKED_LAYERS * self.unpacked * length
        each = width * max(s.itemsize, 4) + scores
        return rows * (tokens * each + unpacked + s.vocab * 16 + self.copied)

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
            + max(self._pass(rows, chunk, longest), self._drafter_pass(rows, chunk, longest))
        )

    def _pass(self, rows: int, chunk: int, length: int) -> int:
        return max(self.activations(1, chunk, length), self._decoding(rows, length))

    def _drafter_pass(self, rows: int, chunk: int, length: int) -> int:
        return 0 if self.drafter is None else self.drafter._pass(rows, chunk, length)

    def _decoding(self, rows: int, length: int) -> int:
        plain = self.activations(rows, 1, length)
        if not self.places:
            return plain
        # The logits of all places wait for those of the last.
        logits = self.shape.vocab * (16 * rows + 4 * self.places)
        return max(plain, self.activations(1, self.places, length) + logits)

    def longest_row(self, context: int, chunk: int) -> int:
        """Most tokens that a row alone can have within the limit, at most `context`."""
        low, high = 0, context
        while low < high:
            middle = (low + high + 1) // 2
            fits = self.total([[middle]], min(chunk, middle)) <= self.limit
            low, high = (middle, high) if fits else (low, middle - 1)
        return low
