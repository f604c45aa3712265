"""Ring: the last keys and values of rows, in a layer that looks back at a window."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import BatchRotatingKVCache, RotatingKVCache

from budmlx.core.batch.places import Places
from budmlx.core.model.memory import CACHE_STEP
from budmlx.protocol import MOST_DRAFTED


class Ring:
    """One layer; for models it is a cache. entry: the batch cache that it takes the place of.

    Token t of a row is at place t modulo the size of the ring, which has as many more places than
    the window as a row may take back tokens: what they overwrote had left the window. Places that
    no row has reached yet are made as they are needed.
    """

    def __init__(self, entry: BatchRotatingKVCache, places: Places):
        self._entry = entry
        self._places = places
        self._size: int = entry.max_size + MOST_DRAFTED
        entry._temporal_order()
        # Every row ends at the last place, with all that its window has, or all there is.
        held = mx.array(places.held)[:, None]
        last = held - 1
        back = (last - mx.arange(self._room(max(places.held)))) % self._size
        place = mx.maximum(entry._idx - 1 - back, 0)
        self.keys, self.values = _taken(entry.keys, place), _taken(entry.values, place)
        entry.keys = entry.values = None

    def _room(self, tokens: int) -> int:
        """Places for rows of at most so many tokens."""
        return min(-(-tokens // CACHE_STEP) * CACHE_STEP, self._size)

    @property
    def offset(self) -> mx.array:
        """Tokens of each row before the pass, [rows]."""
        return self._places.offset

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Write keys and values [rows, heads, tokens, width]; returns those of all places."""
        self.keys, self.values = self._written(self.keys, keys), self._written(self.values, values)
        return self.keys, self.values

    def keys_and_values(self) -> tuple[mx.array, mx.array]:
        """Those of all places, for a layer that has none of its own."""
        return self.keys, self.values

    def make_mask(
        self, N: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array:
        """See `Places.mask`."""
        window, used = window_size or self._entry.max_size, self._room(self._places.longest)
        return self._places.ring_mask(window, self._size, used)

    def empty(self) -> bool:
        """Never: only batches with content have an edge."""
        return False

    @property
    def state(self) -> tuple[Any, Any]:
        """The arrays."""
        return self.keys, self.values

    def row(self, slot: int) -> RotatingKVCache:
        """The cache of one row."""
        held, row = self._places.held[slot], RotatingKVCache(self._entry.max_size)
        kept = min(held, row.max_size)
        place = mx.arange(held - kept, held)[None] % self._size
        keys, values = self.keys[slot : slot + 1], self.values[slot : slot + 1]
        row.keys, row.values = _taken(keys, place), _taken(values, place)
        row.offset, row._idx = held, kept
        return row

    def closed(self) -> BatchRotatingKVCache:
        """The batch cache, in which every row ends at the last place."""
        held, window = self._places.held, self._entry.max_size
        kept = min(max(held), window)
        tokens = mx.array(held)[:, None] - kept + mx.arange(kept)
        place = mx.maximum(tokens, 0) % self._size
        keys, values = _taken(self.keys, place), _taken(self.values, place)
        padding = mx.array([max(kept - each, 0) for each in held])
        state = (keys, values, mx.array(held), padding, window, kept, kept, False)
        self._entry.state = state
        return self._entry

    def _written(self, held: mx.array, new: mx.array) -> mx.array:
        rows, heads, used, width = held.shape
        if (more := self._room(self._places.longest) - used) > 0:
            fresh = mx.zeros((rows, heads, more, width), held.dtype)
            held = mx.concatenate([held, fresh], axis=2)
        place = (self._places.positions % self._size)[:, None, :, None]
        return mx.put_along_axis(held, mx.broadcast_to(place, new.shape), new, axis=2)


def _taken(array: mx.array, place: mx.array) -> mx.array:
    """Of [rows, heads, places, width] the places [rows, tokens]."""
    rows, heads, _, width = array.shape
    index = mx.broadcast_to(place[:, None, :, None], (rows, heads, place.shape[1], width))
    return mx.take_along_axis(array, index, axis=2)
