"""Slots of batches: rows come, go and step in any order, and keep exactly their own KV."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlx_lm.models.cache import ArraysCache, CacheList, KVCache, RotatingKVCache

from budmlx.core.batch.edge import EdgeLayer
from budmlx.core.batch.ring import Ring
from budmlx.core.batch.slots import NARROW_PASSES, SPARE_TOKENS, Slots
from budmlx.core.model.memory import CACHE_STEP, arrays_of
from budmlx.core.model.quantized_kv import QuantizedCache
from budmlx.protocol import MOST_DRAFTED
from tests.amount import examples

HEADS, WIDTH, LAYERS = 2, 32, 2
COPY = 2
WINDOW = 24
Maker = Callable[[int], Any]
"""Makes the cache of a layer, of which the number is given."""
# Those whose slots stay when rows leave.
LASTING: dict[str, Maker] = {
    "plain": lambda layer: KVCache(),
    "quantized": lambda layer: QuantizedCache(bits=8, group_size=32),
}
MAKERS: dict[str, Maker] = {
    **LASTING,
    "windows": lambda layer: RotatingKVCache(WINDOW),
    "mixed": lambda layer: KVCache() if layer else RotatingKVCache(WINDOW),
    "lists": lambda layer: CacheList(KVCache(), RotatingKVCache(WINDOW)),
}


class Tokens:
    """Keys and values of rows whose every number tells whose token it is."""

    def __init__(self) -> None:
        self._next = 0

    def __call__(self, rows: int, count: int) -> mx.array:
        first = self._next
        self._next += rows * count
        numbers = mx.arange(first, self._next).reshape(rows, 1, count, 1)
        return mx.broadcast_to(numbers, (rows, HEADS, count, WIDTH)).astype(mx.float32)


def entries(layer: Any) -> list[Any]:
    """The caches of a layer."""
    return list(layer.caches) if isinstance(layer, CacheList) else [layer]


class Rows:
    """Slots beside what each row must hold: its tokens by layer, in the order of the slots."""

    def __init__(self, make: Maker, *lengths: int):
        self._make, self._tokens = make, Tokens()
        self.slots, self.held = self._new(lengths[0])
        for length in lengths[1:]:
            self.join([length])

    def _new(self, length: int) -> tuple[Slots, list[list[np.ndarray]]]:
        caches, held = [], []
        for layer in range(LAYERS):
            new = self._tokens(1, length)
            cache = self._make(layer)
            for entry in entries(cache):
                entry.update_and_fetch(new, -new)
            caches.append(cache)
            held.append(np.array(new)[0, 0, :, 0])
        return Slots(caches, 1, COPY), [held]

    def join(self, lengths: list[int], expected: int = 0) -> None:
        other, held = self._new(lengths[0])
        for length in lengths[1:]:
            one, its = self._new(length)
            both = [*held, *its]
            held = [both[index] for index in other.add(one, 0)]
        if len(held) > 2:
            held = [held[0], held[2]]
            other.keep([0, 2], lengths_of(held))
        both = [*self.held, *held]
        self.held = [both[index] for index in self.slots.add(other, expected)]

    def leave(self, *gone: int) -> None:
        left = [index for index in range(len(self.held)) if index not in gone]
        self.held = [self.held[index] for index in left]
        self.slots.keep(left, lengths_of(self.held))

    @property
    def longest(self) -> int:
        return max(len(row[0]) for row in self.held)

    def step(self, expected: int = 0) -> None:
        self.slots.before_step(self.longest, expected)
        for layer, cache in enumerate(self.slots.caches):
            own = self._tokens(len(self.held), 1)[:, 0, 0, 0]
            fed = self.slots.spread(own)
            new = mx.broadcast_to(fed[:, None, None, None], (len(fed), HEADS, 1, WIDTH))
            for entry in entries(cache):
                entry.update_and_fetch(new, -new)
            told = np.array(own)
            assert np.array(self.slots.gather(fed)).tolist() == told.tolist()
            for row, number in zip(self.held, told, strict=True):
                row[layer] = np.append(row[layer], number)

    def draft(self, count: int, taken: list[int]) -> None:
        """A pass of `count` tokens, of which the rows take as many as `taken` says."""
        kept = [min(taken[i % len(taken)], count) for i in range(len(self.held))]
        self.slots.before_step(self.longest, 0)
        self.slots.open(count, lengths_of(self.held))
        for layer, cache in enumerate(self.slots.caches):
            own = self._tokens(len(self.held), count)[:, 0, :, 0]
            fed = self.slots.spread(own)
            new = mx.broadcast_to(fed[:, None, :, None], (len(fed), HEADS, count, WIDTH))
            for entry in entries(cache):
                mask = entry.make_mask(count, return_array=True, window_size=None)
                keys, _ = entry.update_and_fetch(new, -new)
                self._check_mask(entry, keys, mask, layer, np.array(own))
            for row, numbers, number in zip(self.held, np.array(own), kept, strict=True):
                row[layer] = np.append(row[layer], numbers[:number])
        self.slots.take(kept, count)

    def _check_mask(
        self, entry: Any, keys: mx.array, mask: mx.array, layer: int, own: np.ndarray
    ) -> None:
        """Every token sees its row's tokens up to itself, within a window, and nothing else."""
        if not isinstance(entry, EdgeLayer | Ring):
            return  # A row alone has mlx-lm's cache.
        seen, allowed = np.array(keys)[:, 0, :, 0], np.array(mask)[:, 0]
        for place, row, numbers in zip(self.slots.places, self.held, own, strict=True):
            for token in range(len(numbers)):
                want = [*row[layer], *numbers[: token + 1]]
                found = seen[place][allowed[place, token]]
                if isinstance(entry, Ring):
                    found, want = np.sort(found), want[-entry._entry.max_size :]
                np.testing.assert_allclose(found, want, rtol=0.01)

    def check(self) -> None:
        slots = self.slots
        assert len(slots.places) == len(self.held) == slots.width - slots.vacant
        assert slots.places == sorted(set(slots.places)) and slots.places[-1] < slots.width
        for index, row in enumerate(self.held):
            for cache, tokens in zip(slots.row(index, len(row[0])), row, strict=True):
                for entry in entries(cache):
                    assert entry.offset == len(tokens)
                    window = isinstance(entry, RotatingKVCache)
                    want = tokens[-entry.max_size :] if window else tokens
                    keys, values = arrays(entry, len(want))
                    np.testing.assert_allclose(keys, want, rtol=0.01)
                    np.testing.assert_allclose(values, -want, rtol=0.01)
        straight = slots.span and not isinstance(slots.caches[0], EdgeLayer)
        for cache in slots.caches if straight else ():
            offsets = [cache.offset.tolist()[place] for place in slots.places]
            padding = [cache.left_padding.tolist()[place] for place in slots.places]
            assert offsets == [len(row[0]) for row in self.held]
            assert [a + b for a, b in zip(offsets, padding, strict=True)] == [slots.span] * len(
                offsets
            )
            assert all(array.shape[0] == slots.width for array in arrays_of(cache))


def lengths_of(held: list[list[np.ndarray]]) -> list[int]:
    return [len(row[0]) for row in held]


def arrays(cache: Any, length: int) -> tuple[np.ndarray, np.ndarray]:
    """The last keys and values of a row; a window may have more for a while."""
    if isinstance(cache, RotatingKVCache):
        keys, values = (cache._temporal_order(array) for array in (cache.keys, cache.values))
    else:
        keys, values = cache.keys_and_values()
        assert keys.shape[2] == length
    return np.array(keys)[0, 0, -length:, 0], np.array(values)[0, 0, -length:, 0]


OPERATIONS = st.one_of(
    st.tuples(st.just("step"), st.integers(1, 40), st.integers(0, 3)),
    st.tuples(
        st.just("join"), st.lists(st.integers(1, 90), min_size=1, max_size=3), st.integers(0, 3)
    ),
    st.tuples(
        st.just("draft"), st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(1, 5)
    ),
    st.tuples(st.just("leave"), st.sets(st.integers(0, 5), min_size=1), st.just(0)),
    st.tuples(st.just("compact"), st.just(0), st.just(0)),
)


@pytest.mark.parametrize("kind", MAKERS)
@settings(deadline=None, max_examples=examples(20), suppress_health_check=list(HealthCheck))
@given(first=st.integers(1, 90), operations=st.lists(OPERATIONS, max_size=14))
def test_rows_keep_their_own(kind: str, first: int, operations: list[tuple[str, Any, int]]) -> None:
    rows = Rows(MAKERS[kind], first)
    for name, value, expected in operations:
        if name == "step":
            rows.slots.close()
            for _ in range(value):
                rows.step(expected)
        elif name == "draft":
            for _ in range(3):
                rows.draft(expected, value)
        elif name == "join":
            rows.join(value, expected)
        elif name == "leave" and len(rows.held) > len(value):
            rows.leave(*(index % len(rows.held) for index in value))
        elif name == "compact" and rows.slots.compact(rows.longest):
            assert not rows.slots.vacant and rows.slots.span == rows.longest
        rows.check()


@pytest.mark.parametrize("kind", MAKERS)
def test_the_edge_closes_after_a_while_without_drafts(kind: str) -> None:
    rows = Rows(MAKERS[kind], 50, 40, 30)
    rows.draft(4, [4, 1, 2])
    for _ in range(NARROW_PASSES):
        assert isinstance(entries(rows.slots.caches[0])[0], EdgeLayer | Ring)
        rows.draft(1, [1])
    rows.check()
    rows.slots.open(1, lengths_of(rows.held))
    assert not isinstance(entries(rows.slots.caches[0])[0], EdgeLayer | Ring)
    rows.check()


def test_rings_grow_with_their_rows() -> None:
    """They are made as long as rows are, up to the window and what may be taken back."""
    rows = Rows(lambda layer: RotatingKVCache(CACHE_STEP + 20), CACHE_STEP - 30, 3, 1)
    for number in range(24):
        rows.draft(5, [5, 4, 1])
        if number % 4 == 0:
            rows.check()
    assert rows.slots.caches[0].keys.shape[2] == CACHE_STEP + 20 + MOST_DRAFTED
    rows.leave(0)
    rows.check()


@pytest.fixture(params=LASTING)
def rows(request: pytest.FixtureRequest) -> Rows:
    return Rows(LASTING[request.param], 50, 40, 30, 20)


def test_a_newcomer_takes_the_slot_of_a_row_that_left(rows: Rows) -> None:
    rows.leave(1)
    assert (rows.slots.vacant, rows.slots.width) == (1, 4)
    rows.join([45])
    assert (rows.slots.vacant, rows.slots.width) == (0, 4)
    rows.check()


def test_a_longer_newcomer_gets_a_slot_too(rows: Rows) -> None:
    rows.leave(0, 3)
    rows.join([70])
    assert rows.slots.width == 3 and rows.slots.span == 70
    rows.check()


def test_slots_are_made_for_rows_on_their_way(rows: Rows) -> None:
    rows.join([10], expected=3)
    assert (rows.slots.vacant, rows.slots.width) == (3, 8)
    rows.join([20, 30])
    rows.join([40])
    assert (rows.slots.vacant, rows.slots.width) == (0, 8)
    rows.check()


def test_vacant_slots_are_given_up_once_they_cost_a_copy(rows: Rows) -> None:
    rows.leave(2)
    steps = 0
    while rows.slots.vacant:
        rows.step()
        steps += 1
    assert steps == 4 * COPY
    rows.check()


def test_slots_wait_longer_for_rows_on_their_way(rows: Rows) -> None:
    rows.leave(2)
    for _ in range(4 * COPY):
        rows.step(expected=1)
    assert rows.slots.vacant == 1
    for _ in range(4 * COPY):
        rows.step(expected=1)
    assert rows.slots.vacant == 0
    rows.check()


def test_padding_goes_with_the_longest_row(rows: Rows) -> None:
    rows.join([50 + SPARE_TOKENS + 2])
    rows.leave(4)
    rows.step()
    assert rows.slots.span == 51
    rows.check()


def test_memory_goes_with_the_longest_row(rows: Rows) -> None:
    rows.join([3 * CACHE_STEP])
    rows.leave(4)
    rows.step()
    assert all(array.shape[2] == CACHE_STEP for array in arrays_of(rows.slots.caches[0]))


def test_caches_without_slots_drop_rows_at_once() -> None:
    def states(rows: int) -> Slots:
        cache = ArraysCache(1)
        cache[0] = mx.arange(rows)[:, None]
        return Slots([cache], rows, COPY)

    slots = states(3)
    slots.keep([0, 2], [1, 1])
    assert (slots.vacant, slots.width, slots.span) == (0, 2, 0)
    assert slots.caches[0][0].tolist() == [[0], [2]]
    assert slots.add(states(2), 4) == [0, 1, 2, 3]
    assert slots.caches[0][0].tolist() == [[0], [2], [0], [1]]
