"""Edge: KV of a batch whose rows do not end at the same place.

mlx-lm's batch caches are rectangles: every row ends at the last place. Where rows take back
different numbers of tokens, that ends; only the right edge has to become ragged, and becomes
straight again by one copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map
from mlx_lm.models.cache import (
    BatchKVCache,
    BatchRotatingKVCache,
    CacheList,
    KVCache,
    dynamic_roll,
)

from budmlx.core.batch.places import Places
from budmlx.core.batch.ring import Ring
from budmlx.core.model.memory import CACHE_STEP, fill
from budmlx.core.model.quantized_kv import BatchQuantizedCache, QuantizedCache

WHOLE = (BatchKVCache, BatchQuantizedCache)
"""The caches that keep all tokens of their rows, by their exact types."""


def can_open(caches: Sequence[Any]) -> bool:
    """Whether batch caches can have such an edge."""
    return all(
        can_open(entry.caches)
        if isinstance(entry, CacheList)
        else type(entry) in (*WHOLE, BatchRotatingKVCache)
        for entry in caches
    )


class Edge:
    """The caches of a batch, one entry per layer, while its rows do not end together.

    caches: the batch caches that the layers take the place of. held: tokens of each row that
    they have seen; 0 for slots that hold nothing. whole: the layers keep all tokens, each in one
    cache.
    """

    def __init__(self, caches: Sequence[Any], held: Sequence[int]):
        end = next((entry.size() for entry in _flat(caches) if type(entry) in WHOLE), max(held))
        self.places = Places([end - each if each else 0 for each in held], held)
        self.whole = all(type(entry) in WHOLE for entry in caches)
        self.layers = [_opened(entry, self.places) for entry in caches]

    @property
    def end(self) -> int:
        """The first place that no row has reached."""
        return self.places.end

    def empty_slots(self, slots: Sequence[int]) -> None:
        """Let slots hold nothing any more."""
        for slot in slots:
            self.places.starts[slot] = self.places.held[slot] = 0

    def row(self, slot: int) -> list[Any]:
        """The cache of one row, one entry per layer; where it can be, a view of the arrays."""
        return [_row(layer, slot) for layer in self.layers]

    def close(self) -> list[Any]:
        """The batch caches again, in which every row ends at the last place; one copy."""
        return [_closed(layer) for layer in self.layers]


def _flat(caches: Sequence[Any]) -> list[Any]:
    lists = [entry.caches if isinstance(entry, CacheList) else [entry] for entry in caches]
    return [entry for entries in lists for entry in entries]


def _opened(entry: Any, places: Places) -> Any:
    if isinstance(entry, CacheList):
        return CacheList(*(_opened(each, places) for each in entry.caches))
    return EdgeLayer(entry, places) if type(entry) in WHOLE else Ring(entry, places)


def _closed(layer: Any) -> Any:
    if isinstance(layer, CacheList):
        return CacheList(*map(_closed, layer.caches))
    return layer.closed()


def _row(layer: Any, slot: int) -> Any:
    if isinstance(layer, CacheList):
        return CacheList(*(_row(each, slot) for each in layer.caches))
    return layer.row(slot)


class EdgeLayer:
    """One layer; for models it is a cache. entry: the batch cache that it takes the place of."""

    def __init__(self, entry: Any, places: Places):
        self.keys, self.values = entry.keys, entry.values
        self._entry = entry
        self._places = places
        # The arrays are written in place, which they cannot be while another holds them.
        entry.keys = entry.values = None

    @property
    def offset(self) -> mx.array:
        """Tokens of each row before the pass, [rows]."""
        return self._places.offset

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Write keys and values [rows, heads, tokens, width]; returns those of all places."""
        new = keys, values
        if isinstance(self._entry, BatchQuantizedCache):
            new = self._entry.packed(keys), self._entry.packed(values)
        self.keys, self.values = tree_map(self._written, (self.keys, self.values), new)
        return self.keys_and_values()

    def keys_and_values(self) -> tuple[mx.array, mx.array]:
        """Those of all places."""
        span = self._places.span
        used = tree_map(lambda array: array[..., :span, :], (self.keys, self.values))
        if isinstance(self._entry, BatchQuantizedCache):
            return self._entry.unpacked(used[0]), self._entry.unpacked(used[1])
        return used  # type: ignore[no-any-return]

    def make_mask(
        self, N: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array:
        """See `Places.mask`."""
        return self._places.mask(window_size)

    def empty(self) -> bool:
        """Never: only batches with content have an edge."""
        return False

    @property
    def state(self) -> tuple[Any, Any]:
        """The arrays."""
        return self.keys, self.values

    def row(self, slot: int) -> Any:
        """The cache of one row, as a view of the batch's arrays."""
        start, held = self._places.starts[slot], self._places.held[slot]
        cut = tree_map(
            lambda array: array[slot : slot + 1, :, start : start + held], (self.keys, self.values)
        )
        if isinstance(self._entry, BatchQuantizedCache):
            row = QuantizedCache(self._entry.kv_bits, self._entry.group_size)
            fill(row, [*cut[0], *cut[1]], held)
        else:
            row = KVCache()
            fill(row, cut, held)
        return row

    def closed(self) -> Any:
        """The batch cache."""
        starts, held, end = self._places.starts, self._places.held, self._places.end
        gaps = [end - a - b for a, b in zip(starts, held, strict=True)]
        if any(gaps):
            shift = mx.array(gaps)[:, None]
            self.keys, self.values = tree_map(
                lambda array: dynamic_roll(array[..., :end, :], shift, axis=2),
                (self.keys, self.values),
            )
        padding = mx.array([start + gap for start, gap in zip(starts, gaps, strict=True)])
        self._entry.state = (self.keys, self.values, mx.array(held), padding, end)
        return self._entry

    def _written(self, held: mx.array, new: mx.array) -> mx.array:
        more = self._places.span - held.shape[2]
        if more > 0:
            rows, heads, _, width = held.shape
            room = -(-more // CACHE_STEP) * CACHE_STEP
            fresh = mx.zeros((rows, heads, room, width), held.dtype)
            held = mx.concatenate([held, fresh], axis=2)
        index = mx.broadcast_to(self._places.written[:, None, :, None], new.shape)
        return mx.put_along_axis(held, index, new, axis=2)
