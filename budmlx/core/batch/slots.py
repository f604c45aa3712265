"""Slots: the places of a group's rows in its KV arrays."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map
from mlx_lm.models.cache import CacheList, RotatingKVCache

from budmlx.core.batch.edge import WHOLE, Edge, can_open
from budmlx.core.batch.prefill import extract
from budmlx.core.model.memory import CACHE_STEP, arrays_of, keep_rows, state_arrays

# A batch is cut down to its longest row once it is longer by this many tokens, and this share.
SPARE_TOKENS = 32
SPARE_SHARE = 1 / 16
# Passes of one token after which the edge is closed: what makes it straight is a copy.
NARROW_PASSES = 16


class Slots:
    """A group's caches, one entry per layer, in which each row has a slot.

    Adding or removing a slot copies all others, so a row that leaves a batch leaves its slot
    vacant, and the next newcomer is written into it. Vacant slots take part in every step: once
    they have cost about as much as the copy, they are given up.

    While rows take different numbers of tokens, the caches have an `Edge`; what copies them
    closes it first.

    copy_steps: what a copy of all rows costs, in steps. ragged: the edge stays open.
    places: the slot of each row, ascending. width: how many slots there are.
    """

    def __init__(self, caches: list[Any], rows: int, copy_steps: float, *, ragged: bool = False):
        self.caches = caches
        self.places = list(range(rows))
        self.width = rows
        self._copy_steps = copy_steps
        self._ragged = ragged
        self._merged = rows > 1
        self._rent = 0.0
        self._edge: Edge | None = None
        self._narrow = 0

    @property
    def vacant(self) -> int:
        """Slots without a row."""
        return self.width - len(self.places)

    @property
    def empty(self) -> bool:
        """Whether a cache still has no content."""
        return any(entry.empty() for entry in self.caches)

    @property
    def span(self) -> int:
        """Tokens that every slot takes, padding included; 0 if slots cannot stay vacant."""
        if not self._lasting:
            return 0
        return self._edge.end if self._edge is not None else self.caches[0].size()

    @property
    def _lasting(self) -> bool:
        """Whether slots can stay vacant."""
        if self._edge is not None:
            return self._edge.whole
        known = self._merged and all(type(entry) in WHOLE for entry in self.caches)
        return known and not self.empty

    @property
    def arrays(self) -> list[mx.array]:
        """All arrays of the caches, those that no forward pass reads included."""
        return state_arrays(self.caches)

    def row(self, index: int, held: int) -> list[Any]:
        """The cache of one row, one entry per layer. held: tokens of it that they have seen."""
        if self._edge is not None:
            return self._edge.row(self.places[index])
        return extract(self.caches, self.places[index], held) if self._merged else self.caches

    def keep(self, indices: Sequence[int], held: Sequence[int]) -> None:
        """Drop all rows but these. held: tokens of each of them that the caches have seen."""
        if not self._lasting:
            self.close()
        self.places = [self.places[index] for index in indices]
        if not self._lasting:
            for entry in self.caches:
                keep_rows(entry, self.places, held)
            self.width = len(self.places)
            self.places = list(range(self.width))

    def add(self, other: Slots, expected: int) -> list[int]:
        """Add the rows of `other`, which must not be used any more.

        expected: rows that may want slots soon.
        Returns in which order the rows are now: indices of those here, followed by the others.
        """
        other.close()
        self.close()
        count, size = len(other.places), other.caches[0].size()
        other.compact()
        self._merge()
        if not self._lasting:
            other._merge()
            for entry, addition in zip(self.caches, other.caches, strict=True):
                entry.extend(addition)
            taken = list(range(self.width, self.width + count))
            self.width += count
        else:
            if self.vacant < count or self.span < size:
                rows = len(self.places) + count
                # Vacant slots cost as much as others until their rows come.
                self._rebuild(rows + min(expected, rows), min(0, self.span - size))
            taken = sorted(set(range(self.width)) - set(self.places))[:count]
            self._write(other.caches, taken)
        places = [*self.places, *taken]
        self.places = sorted(places)
        return sorted(range(len(places)), key=places.__getitem__)

    def spread(self, values: mx.array) -> mx.array:
        """Values [rows, ...] as values [slots, ...]."""
        if not self.vacant:
            return values
        spread = mx.zeros((self.width, *values.shape[1:]), values.dtype)
        spread[mx.array(self.places)] = values
        return spread

    def placed(self, names: Sequence[str]) -> Sequence[str]:
        """A name for each slot, of one for each row or none at all; empty for vacant slots."""
        if not names or not self.vacant:
            return names
        rows = dict(zip(self.places, names, strict=True))
        return [rows.get(slot, "") for slot in range(self.width)]

    def gather(self, values: mx.array) -> mx.array:
        """Values [slots, ...] as values [rows, ...]."""
        return values[mx.array(self.places)] if self.vacant else values

    @property
    def takes_back(self) -> bool:
        """Whether rows may take back tokens of a pass; see `open`."""
        opens = self._edge is not None or not self._merged or can_open(self.caches)
        return opens and not self.empty

    def open(self, count: int, held: Sequence[int]) -> None:
        """Prepare a pass of `count` tokens of each row, after which each may take some back.

        held: tokens of each row that the caches have seen. For more than one token only if
        `takes_back`.
        """
        if not self._merged or (count == 1 and self._edge is None and not self._ragged):
            return
        self._narrow = self._narrow + 1 if count == 1 and not self._ragged else 0
        if self._narrow > NARROW_PASSES:
            self.close()
            return
        edge = self._opened(held)
        edge.empty_slots(sorted(set(range(self.width)) - set(self.places)))
        edge.places.begin(count)

    def rewind(self, counts: Sequence[int], held: Sequence[int]) -> None:
        """Forget the last `counts` tokens of rows, those of earlier passes, too.

        held: tokens of each row that the caches have seen.
        """
        if not self._merged:
            for entry in self.caches:
                entry.trim(counts[0])
            return
        edge = self._opened(held)
        for place, count in zip(self.places, counts, strict=True):
            edge.places.held[place] -= count

    def _opened(self, held: Sequence[int]) -> Edge:
        if self._edge is None:
            own = dict(zip(self.places, held, strict=True))
            self._edge = Edge(self.caches, [own.get(slot, 0) for slot in range(self.width)])
            self.caches = self._edge.layers
        return self._edge

    def take(self, counts: Sequence[int], count: int) -> None:
        """Keep the first `counts` tokens of the rows of a pass of `count` tokens."""
        if not self._merged:
            for entry in self.caches if counts[0] < count else ():
                _take_back(entry, count - counts[0])
        elif self._edge is not None:
            for place, kept in zip(self.places, counts, strict=True):
                self._edge.places.held[place] += kept

    def close(self) -> None:
        """Let all rows end at the same place again."""
        if self._edge is not None:
            self.caches = self._edge.close()
            self._edge = None

    def before_step(self, longest: int, expected: int) -> None:
        """Give up vacant slots and padding if that pays.

        longest: tokens of the longest row. expected: rows that may want slots soon.
        """
        if not self._lasting:
            return
        self._rent = self._rent + self.vacant / self.width if self.vacant else 0
        wanted = min(self.vacant, expected)
        spare = self.span - longest
        # Slots that are wanted cost a copy each to make again.
        if self._rent >= self._copy_steps * (1 + wanted):
            self._rebuild(len(self.places), spare)
        elif spare > max(SPARE_TOKENS, SPARE_SHARE * longest):
            self._rebuild(len(self.places) + wanted, spare)

    def compact(self, longest: int | None = None) -> bool:
        """Give up vacant slots and needless padding; returns whether there were any.

        longest: tokens of the longest row; None leaves the padding.
        """
        needless = self.span - longest if longest is not None and self._lasting else 0
        if not self.vacant and not needless:
            return False
        self._rebuild(len(self.places), needless)
        return True

    def _rebuild(self, width: int, needless: int) -> None:
        """Copy the rows into `width` slots, without `needless` tokens of padding.

        needless: below 0 for more padding.
        """
        self.close()
        end, padding = self.span, self._padding
        copied = partial(_copied, places=self.places, width=width, begin=needless, end=end)
        for entry in self.caches:
            entry.keys, entry.values = tree_map(copied, (entry.keys, entry.values))
        kept = [padding[place] - needless for place in self.places]
        self._end(end - needless, kept + [0] * (width - len(kept)))
        self.width = width
        self.places = list(range(len(kept)))
        self._rent = 0.0

    @property
    def _padding(self) -> list[int]:
        padding: list[int] = self.caches[0].left_padding.tolist()
        return padding

    def _end(self, end: int, padding: Sequence[int]) -> None:
        for entry in self.caches:
            left = mx.array(padding)
            entry.state = (entry.keys, entry.values, end - left, left, end)

    def _write(self, caches: Sequence[Any], taken: Sequence[int]) -> None:
        end, size = self.span, caches[0].size()
        padding, left = self._padding, [0]
        if hasattr(caches[0], "left_padding"):
            left = caches[0].left_padding.tolist()
        for entry, addition in zip(self.caches, caches, strict=True):
            for target, source in zip(arrays_of(entry), arrays_of(addition), strict=True):
                for index, place in enumerate(taken):
                    row = source[index : index + 1, :, :size]
                    target[place : place + 1, :, end - size : end] = row
        for place, spare in zip(taken, left, strict=True):
            padding[place] = end - size + spare
        self._end(end, padding)

    def _merge(self) -> None:
        if not self._merged:
            self.caches = [entry.merge([entry]) for entry in self.caches]
            self._merged = True


def _take_back(entry: Any, count: int) -> None:
    """Forget the last tokens of a pass in the cache of a row that is alone."""
    if isinstance(entry, CacheList):
        for each in entry.caches:
            _take_back(each, count)
        return
    if not isinstance(entry, RotatingKVCache):
        entry.trim(count)
        return
    # After a pass of several tokens they stand in order, and before them as many as the window
    # has for the first of them. `trim` would leave them there, to be taken for the oldest ones.
    end = entry.keys.shape[2] - count
    entry.keys, entry.values = entry.keys[..., :end, :], entry.values[..., :end, :]
    entry.offset, entry._idx = entry.offset - count, end


def _copied(array: mx.array, places: Sequence[int], width: int, begin: int, end: int) -> mx.array:
    """`width` slots, the first of which hold tokens from `begin` to `end` of those at `places`.

    array: [slots, heads, tokens, ...]. begin: below 0 for padding.
    """
    _, heads, _, size = array.shape
    tokens = end - begin
    room = -(-(tokens + 1) // CACHE_STEP) * CACHE_STEP
    copy = mx.zeros((width, heads, room, size), array.dtype)
    first = 0
    for index, place in enumerate(places):
        # Neighbours are copied together.
        if index + 1 == len(places) or places[index + 1] != place + 1:
            rows = array[places[first] : place + 1, :, max(begin, 0) : end]
            copy[first : index + 1, :, max(-begin, 0) : tokens] = rows
            first = index + 1
    return copy
