"""KV caches that hold quantized keys and values, for one row and for batches.

Attention gets them unpacked, in the model's dtype, as from plain caches. mlx-lm's attention would
compute with packed ones of a cache that has an attribute `bits`, but rounds scores and sums to
that dtype. What does not touch arrays is inherited from the plain caches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map
from mlx_lm.models.cache import BatchKVCache, KVCache, dynamic_roll, make_prompt_cache

from budmlx.core.model.memory import CACHE_STEP, arrays_of
from budmlx.errors import ModelLoadError

# Numbers that share a scale and a bias: the first that divides the width of a head.
GROUP_SIZES = (64, 32)

Triple = tuple[mx.array, mx.array, mx.array]
"""The result of `mx.quantize` for [rows, heads, tokens, width]: packed, scales and biases."""


class _Quantized:
    """Keys and values as triples of arrays [rows, heads, tokens, ...].

    Each token is quantized once, when it is added, along its own width, so its stored form
    depends neither on its neighbours nor on the forward pass that added it.
    """

    kv_bits: int
    group_size: int
    keys: Triple | None
    values: Triple | None
    size: Callable[[], int]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, including the room for further tokens."""
        return sum(array.nbytes for array in arrays_of(self))

    @property
    def unpacked_per_token(self) -> int:
        """Bytes of a token's keys and values when they are unpacked."""
        scales = arrays_of(self)[1::3]
        return sum(x.shape[1] * x.shape[3] * self.group_size * x.dtype.size for x in scales)

    def keys_and_values(self) -> tuple[mx.array, mx.array]:
        """Keys and values of all tokens, padding included; arrays [rows, heads, tokens, width]."""
        assert self.keys is not None and self.values is not None
        return self._held(self.keys), self._held(self.values)

    def packed(self, array: mx.array) -> Triple:
        """Numbers [rows, heads, tokens, width] as they are stored."""
        return tuple(mx.quantize(array, group_size=self.group_size, bits=self.kv_bits))

    def unpacked(self, packed: Triple) -> mx.array:
        """Stored numbers as an array [rows, heads, tokens, width]."""
        return mx.dequantize(*packed, group_size=self.group_size, bits=self.kv_bits)

    def _held(self, packed: Triple) -> mx.array:
        weights, scales, biases = (array[..., : self.size(), :] for array in packed)
        return self.unpacked((weights, scales, biases))

    def _append(self, keys: mx.array, values: mx.array) -> None:
        start = self.size()
        held = arrays_of(self) or [None] * 6
        parts = [*self.packed(keys), *self.packed(values)]
        written = [_written(*pair, start) for pair in zip(held, parts, strict=True)]
        self.keys, self.values = tuple(written[:3]), tuple(written[3:])

    def _change(self, change: Callable[[mx.array], mx.array]) -> None:
        if self.keys is not None:
            self.keys, self.values = tree_map(change, (self.keys, self.values))


class QuantizedCache(_Quantized, KVCache):  # type: ignore[misc]
    """One layer of one row. The interface is that of mlx-lm's `KVCache`."""

    def __init__(self, bits: int, group_size: int):
        super().__init__()
        self.kv_bits = bits
        self.group_size = group_size

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Add keys and values [1, heads, tokens, width]; returns those of all tokens."""
        self._append(keys, values)
        self.offset += keys.shape[2]
        return self.keys_and_values()

    @classmethod
    def merge(cls, caches: Sequence[QuantizedCache]) -> BatchQuantizedCache:
        """A batch with a copy of each."""
        return BatchQuantizedCache.merge(caches)


class BatchQuantizedCache(_Quantized, BatchKVCache):  # type: ignore[misc]
    """One layer of a batch, padded on the left. The interface is that of `BatchKVCache`."""

    left_padding: mx.array
    offset: mx.array
    _idx: int
    _right_padding: mx.array | None

    def __init__(self, left_padding: list[int], bits: int, group_size: int):
        super().__init__(left_padding)
        self.kv_bits = bits
        self.group_size = group_size

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Add keys and values [rows, heads, tokens, width]; returns those of all tokens."""
        self._append(keys, values)
        self._idx += keys.shape[2]
        self.offset = self.offset + keys.shape[2]
        return self.keys_and_values()

    def finalize(self) -> None:
        """Turn the right padding that `prepare` announced into left padding."""
        padding = self._right_padding
        if padding is not None:
            self._change(lambda array: dynamic_roll(array, padding[:, None], axis=2))
            self.offset = self.offset - padding
            self.left_padding = self.left_padding + padding
            self._right_padding = None

    def filter(self, batch_indices: mx.array) -> None:
        """Keep the rows `batch_indices` [rows], and no more padding than they need."""
        self.offset = self.offset[batch_indices]
        self.left_padding = self.left_padding[batch_indices]
        needless = min(self.left_padding.tolist())
        self._change(lambda array: array[batch_indices][..., needless:, :])
        self.left_padding = self.left_padding - needless
        self._idx -= needless

    def extend(self, other: BatchQuantizedCache) -> None:
        """Add copies of the rows of `other`."""
        both = (self, other)
        end = max(self._idx, other._idx)
        if end:
            room = max(arrays[0].shape[2] for cache in both if (arrays := arrays_of(cache)))
            counts = [len(cache.left_padding) for cache in both]
            self.keys, self.values = _aligned(both, counts, end, room)
        shifted = [cache.left_padding + (end - cache._idx) for cache in both]
        self.left_padding = mx.concatenate(shifted)
        self.offset = mx.concatenate([self.offset, other.offset])
        self._idx = end

    def extract(self, idx: int) -> QuantizedCache:
        """One row, as a view of the batch's arrays."""
        row = QuantizedCache(self.kv_bits, self.group_size)
        padding = self.left_padding.tolist()[idx]
        row.keys, row.values = tree_map(
            lambda array: array[idx : idx + 1, :, padding : self._idx],
            (self.keys, self.values),
        )
        row.offset = self._idx - padding
        return row

    @classmethod
    def merge(cls, caches: Sequence[QuantizedCache]) -> BatchQuantizedCache:
        """A batch with a copy of each; some may be empty."""
        end = max(cache.offset for cache in caches)
        padding = [end - cache.offset for cache in caches]
        batch = cls(padding, caches[0].kv_bits, caches[0].group_size)
        if end:
            batch.keys, batch.values = _aligned(caches, [1] * len(caches), end, end)
            batch.offset = batch.offset + end
            batch._idx = end
        return batch


def _written(held: mx.array | None, new: mx.array, start: int) -> mx.array:
    """`held`, grown if need be, with `new` from token `start` on."""
    rows, heads, tokens, width = new.shape
    if held is None or start + tokens > held.shape[2]:
        room = -(-tokens // CACHE_STEP) * CACHE_STEP
        fresh = mx.zeros((rows, heads, room, width), new.dtype)
        held = fresh if held is None else mx.concatenate([held[..., :start, :], fresh], axis=2)
    held[..., start : start + tokens, :] = new
    return held


def _aligned(caches: Sequence[Any], counts: Sequence[int], end: int, room: int) -> Any:
    """Keys and values of all rows of `caches`, whose last tokens come before token `end`.

    counts: rows of each cache. room: tokens to allocate.
    """
    full = next(cache for cache in caches if cache.size())

    def zeros(array: mx.array) -> mx.array:
        return mx.zeros((sum(counts), array.shape[1], room, array.shape[3]), array.dtype)

    aligned = tree_map(zeros, (full.keys, full.values))
    begin = 0
    for cache, count in zip(caches, counts, strict=True):
        size = cache.size()
        for (_, target), source in zip(tree_flatten(aligned), arrays_of(cache), strict=False):
            target[begin : begin + count, :, end - size : end] = source[..., :size, :]
        begin += count
    return aligned


def cache_maker(module: nn.Module, bits: int | None) -> Callable[[], list[Any]]:
    """A function that makes an empty cache for one row, a list with one entry per layer.

    bits: of each stored number, 4 or 8; None stores keys and values as they are.

    Raises:
        ModelLoadError: the model cannot run with quantized keys and values.
    """
    if bits is None:
        return partial(make_prompt_cache, module)
    return partial(_quantized, module, bits, _group_size(module))


def unpacked_bytes(cache: Sequence[Any]) -> int:
    """Most bytes of a token's keys and values that a layer unpacks; 0 if they are not packed.

    cache: of a row that holds a token.
    """
    packed = (entry for entry in cache if isinstance(entry, QuantizedCache))
    return max((entry.unpacked_per_token for entry in packed), default=0)


def _quantized(module: nn.Module, bits: int, group_size: int) -> list[QuantizedCache]:
    return [QuantizedCache(bits, group_size) for _ in make_prompt_cache(module)]


def _group_size(module: nn.Module) -> int:
    """The count of a head's numbers that share a scale. Raises ModelLoadError."""
    cache = make_prompt_cache(module)
    if others := {type(entry).__name__ for entry in cache if type(entry) is not KVCache}:
        raise _refusal(
            f"its caches ({', '.join(sorted(others))}) have no quantized form, because they keep "
            "sliding windows, recurrent state or other things than keys and values"
        )
    # Lazy: gives shapes without computing anything.
    module(mx.zeros((1, 1), dtype=mx.int32), cache=cache)
    widths = sorted({array.shape[3] for entry in cache for array in arrays_of(entry)})
    for size in GROUP_SIZES:
        if not any(width % size for width in widths):
            return size
    raise _refusal(
        f"its heads have {' and '.join(map(str, widths))} numbers, and only multiples of "
        f"{GROUP_SIZES[-1]} can be quantized"
    )


def _refusal(reason: str) -> ModelLoadError:
    return ModelLoadError(
        f"This model cannot keep its keys and values quantized: {reason}. Leave kv_bits out."
    )
