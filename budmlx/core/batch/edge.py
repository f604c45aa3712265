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
from mlx_lm.models.cache import BatchKVCache, KVCache, dynamic_roll

from budmlx.core.model.memory import CACHE_STEP, fill
from budmlx.core.model.quantized_kv import BatchQuantizedCache, QuantizedCache

KINDS = (BatchKVCache, BatchQuantizedCache)
"""The caches that can have such an edge, by their exact types."""


class Edge:
    """Where the rows of a batch stand, the same for all layers.

    Row i holds `held[i]` tokens, from place `starts[i]` on; both are numbers of the host, so that
    taking tokens back changes a number and copies nothing.
    """

    def __init__(self, caches: Sequence[Any], starts: Sequence[int], held: Sequence[int]):
        self.starts = list(starts)
        self.held = list(held)
        self.layers = [EdgeLayer(entry, self) for entry in caches]
        self.offset = mx.array(self.held)
        self.places = mx.array([])
        self.span = 0
        self._masks: dict[int | None, mx.array] = {}

    @property
    def end(self) -> int:
        """The first place that no row has reached."""
        return max(start + held for start, held in zip(self.starts, self.held, strict=True))

    def begin(self, count: int) -> None:
        """Prepare a forward pass in which every row takes `count` tokens."""
        self.span = self.end + count
        self.offset = mx.array(self.held)
        ends = mx.array([a + b for a, b in zip(self.starts, self.held, strict=True)])
        self.places = ends[:, None] + mx.arange(count)
        self._masks.clear()

    def mask(self, window: int | None) -> mx.array:
        """Bool [rows, 1, tokens, places]: what the tokens of a pass attend to."""
        if window not in self._masks:
            left = mx.array(self.starts)[:, None, None, None]
            places, own = mx.arange(self.span), self.places[:, None, :, None]
            mask = (places <= own) & (places >= left)
            self._masks[window] = mask if window is None else mask & (places > own - window)
        return self._masks[window]

    def empty_slots(self, slots: Sequence[int]) -> None:
        """Let slots hold nothing any more."""
        for slot in slots:
            self.starts[slot] = self.held[slot] = 0

    def row(self, slot: int) -> list[Any]:
        """The cache of one row, one entry per layer, as a view of the batch's arrays."""
        return [layer.row(slot, self.starts[slot], self.held[slot]) for layer in self.layers]

    def close(self) -> list[Any]:
        """The batch caches again, in which every row ends at the last place; one copy."""
        end = self.end
        gaps = [end - a - b for a, b in zip(self.starts, self.held, strict=True)]
        padding = mx.array([a + gap for a, gap in zip(self.starts, gaps, strict=True)])
        shift = mx.array(gaps)[:, None] if any(gaps) else None
        held = mx.array(self.held)
        return [layer.closed(shift, (held, padding, end)) for layer in self.layers]


class EdgeLayer:
    """One layer; for models it is a cache. entry: the batch cache that it takes the place of."""

    def __init__(self, entry: Any, edge: Edge):
        self.keys, self.values = entry.keys, entry.values
        self._entry = entry
        self._edge = edge
        # The arrays are written in place, which they cannot be while another holds them.
        entry.keys = entry.values = None

    @property
    def offset(self) -> mx.array:
        """Tokens of each row before the pass, [rows]."""
        return self._edge.offset

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Write keys and values [rows, heads, tokens, width]; returns those of all places."""
        new = keys, values
        if isinstance(self._entry, BatchQuantizedCache):
            new = self._entry.packed(keys), self._entry.packed(values)
        self.keys, self.values = tree_map(self._written, (self.keys, self.values), new)
        used = tree_map(lambda array: array[..., : self._edge.span, :], (self.keys, self.values))
        if isinstance(self._entry, BatchQuantizedCache):
            return self._entry.unpacked(used[0]), self._entry.unpacked(used[1])
        return used  # type: ignore[no-any-return]

    def make_mask(
        self, N: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array:
        """See `Edge.mask`."""
        return self._edge.mask(window_size)

    def empty(self) -> bool:
        """Never: only batches with content have an edge."""
        return False

    @property
    def state(self) -> tuple[Any, Any]:
        """The arrays."""
        return self.keys, self.values

    def row(self, slot: int, start: int, held: int) -> Any:
        """See `Edge.row`."""
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

    def closed(self, shift: mx.array | None, numbers: tuple[mx.array, mx.array, int]) -> Any:
        """The batch cache. shift: places by which each row moves, [rows, 1]; None for no row.

        numbers: tokens that rows hold, their padding, and where all of them end.
        """
        held, padding, end = numbers
        if shift is not None:
            self.keys, self.values = tree_map(
                lambda array: dynamic_roll(array[..., :end, :], shift, axis=2),
                (self.keys, self.values),
            )
        self._entry.state = (self.keys, self.values, held, padding, end)
        return self._entry

    def _written(self, held: mx.array, new: mx.array) -> mx.array:
        more = self._edge.span - held.shape[2]
        if more > 0:
            rows, heads, _, width = held.shape
            room = -(-more // CACHE_STEP) * CACHE_STEP
            fresh = mx.zeros((rows, heads, room, width), held.dtype)
            held = mx.concatenate([held, fresh], axis=2)
        index = mx.broadcast_to(self._edge.places[:, None, :, None], new.shape)
        return mx.put_along_axis(held, index, new, axis=2)
