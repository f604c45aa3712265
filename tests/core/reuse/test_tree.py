"""The tree of prefixes against a dictionary that holds every block under all its tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from budmlx.core.reuse.tree import Match, PrefixTree
from tests.amount import examples

BLOCK = 3
IDS = st.lists(st.integers(0, 1), max_size=11)
NAMESPACE = st.sampled_from(["", "a"])
Key = tuple[str, tuple[int, ...]]
Path = list[Key]


@dataclass
class Entry:
    value: object
    nbytes: int
    used: int
    pins: int = 0


def shared(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(map(len, (a, b)))
    )


class Naive:
    """What the tree must do, by looking at everything every time."""

    def __init__(self, limit: int, count: float):
        self.limit = limit
        self.count = count
        self.entries: dict[Key, Entry] = {}
        self.clock = 0

    @property
    def nbytes(self) -> int:
        return sum(entry.nbytes for entry in self.entries.values())

    @property
    def pinned(self) -> int:
        return sum(entry.nbytes for entry in self.entries.values() if entry.pins)

    def path(self, namespace: str, ids: tuple[int, ...], length: int) -> Path:
        """Keys of the blocks that hold the first `length` tokens of `ids`.

        Of several that begin with the last of them, the smallest.
        """
        keys: Path = []
        for end in range(BLOCK, length + BLOCK, BLOCK):
            want = ids[: min(end, length)]
            keys.append(
                min(
                    (space, key)
                    for space, key in self.entries
                    if space == namespace
                    and key[: len(want)] == want
                    and len(want) <= len(key) <= end
                )
            )
        return keys

    def match(self, namespace: str, ids: tuple[int, ...]) -> int:
        return max(
            (shared(key, ids) for space, key in self.entries if space == namespace), default=0
        )

    def use(self, path: Path) -> None:
        for key in reversed(path):
            self.clock += 1
            self.entries[key].used = self.clock

    def evict(self, target: int, count: float) -> bool:
        while self.nbytes > target or len(self.entries) > count:
            leaves = [
                (entry.used, key)
                for key, entry in self.entries.items()
                if not entry.pins and not any(self.below(other, key) for other in self.entries)
            ]
            if not leaves:
                return False
            del self.entries[min(leaves)[1]]
        return True

    @staticmethod
    def below(key: Key, other: Key) -> bool:
        return key[0] == other[0] and key != other and key[1][: len(other[1])] == other[1]

    def insert(self, namespace: str, ids: tuple[int, ...], start: int, sizes: list[int]) -> None:
        if self.match(namespace, ids[:start]) < start:
            return
        path = self.path(namespace, ids, start)
        for key in path:
            self.entries[key].pins += 1
        held = list(path)
        for number, size in enumerate(sizes):
            end = min(start + (number + 1) * BLOCK, len(ids))
            tokens = ids[:end]
            if self.match(namespace, tokens) < end and not self.add(namespace, tokens, size):
                break
            key = self.path(namespace, ids, end)[-1]
            self.entries[key].pins += 1
            held.append(key)
        for key in held:
            self.entries[key].pins -= 1
        self.use(held)

    def add(self, namespace: str, tokens: tuple[int, ...], size: int) -> bool:
        first = (len(tokens) - 1) // BLOCK * BLOCK
        shorter = next(
            (k for k in self.entries if self.below((namespace, tokens), k) and len(k[1]) > first),
            None,
        )
        pins, old = 0, 0
        if shorter is not None:
            entry = self.entries[shorter]
            pins, old = entry.pins, entry.nbytes
            entry.pins += 1
        extra = size - old
        count = self.count - (shorter is None)
        room = self.pinned + extra <= self.limit and self.evict(self.limit - extra, count)
        if shorter is not None:
            self.entries[shorter].pins -= 1
        if room:
            if shorter is not None:
                del self.entries[shorter]
            self.entries[namespace, tokens] = Entry((tokens, size), size, 0, pins)
        return room


class TreeOrders(RuleBasedStateMachine):
    """Any order of inserts, matches, pins and changes of the limit."""

    @initialize(limit=st.integers(0, 40), count=st.integers(0, 6) | st.just(math.inf))
    def begin(self, limit: int, count: float) -> None:
        self.tree = PrefixTree(limit, BLOCK, count=count)
        self.naive = Naive(limit, count)
        self.pins: list[tuple[Match, str, tuple[int, ...]]] = []

    @rule(namespace=NAMESPACE, ids=IDS, sizes=st.lists(st.integers(1, 9), min_size=4, max_size=4))
    def insert(self, namespace: str, ids: list[int], sizes: list[int]) -> None:
        tokens = tuple(ids)
        start = self.tree.stored(namespace, ids) // BLOCK * BLOCK
        pieces = sizes[: -(-(len(ids) - start) // BLOCK)]
        ends = [min(start + (i + 1) * BLOCK, len(ids)) for i in range(len(pieces))]
        values = [((tokens[:end], size), size) for end, size in zip(ends, pieces, strict=True)]
        self.tree.insert(namespace, ids, start, values)
        self.naive.insert(namespace, tokens, start, pieces)

    @rule(namespace=NAMESPACE, ids=IDS)
    def insert_without_a_beginning(self, namespace: str, ids: list[int]) -> None:
        start = len(ids) // BLOCK * BLOCK
        sizes = [1] if len(ids) > start else []
        self.tree.insert(namespace, ids, start, [((tuple(ids), 1), 1) for _ in sizes])
        self.naive.insert(namespace, tuple(ids), start, sizes)

    @rule(namespace=NAMESPACE, ids=IDS, keep=st.booleans())
    def match(self, namespace: str, ids: list[int], keep: bool) -> None:
        tokens = tuple(ids)
        match = self.tree.match(namespace, ids)
        assert match.length == self.naive.match(namespace, tokens)
        path = self.naive.path(namespace, tokens, match.length)
        # Several blocks may have equally much in common; any will do, and one is used.
        found = self.keys(match, namespace)
        assert found[:-1] == path[:-1] and len(found) == len(path)
        if found:
            assert shared(found[-1][1], tokens) == match.length
        self.naive.use(found)
        if keep:
            match.pin()
            self.pins.append((match, namespace, tokens[: match.length]))
            for key in found:
                self.naive.entries[key].pins += 1

    @precondition(lambda self: self.pins)
    @rule(which=st.integers(0, 99))
    def unpin(self, which: int) -> None:
        match, namespace, tokens = self.pins.pop(which % len(self.pins))
        keys = self.keys(match, namespace)
        assert all(shared(key[1], tokens) == min(len(key[1]), len(tokens)) for key in keys)
        match.unpin()
        for key in keys:
            self.naive.entries[key].pins -= 1
        self.naive.evict(self.naive.limit, self.naive.count)

    @rule(limit=st.integers(0, 40))
    def resize(self, limit: int) -> None:
        self.tree.resize(limit)
        self.naive.limit = limit
        self.naive.evict(limit, self.naive.count)

    @invariant()
    def same(self) -> None:
        stored = {self.keys_of(block): block for block in self.tree._order}
        assert stored.keys() == self.naive.entries.keys()
        for key, entry in self.naive.entries.items():
            block = stored[key]
            assert (block.value, block.nbytes, block.pins) == (
                entry.value,
                entry.nbytes,
                entry.pins,
            )
        assert (self.tree.nbytes, self.tree.pinned) == (self.naive.nbytes, self.naive.pinned)
        assert self.tree.nbytes <= max(self.tree.limit, self.tree.pinned)
        assert len(stored) <= self.tree.count
        assert self.tree._roots.keys() == {space for space, _ in self.naive.entries}

    def keys(self, match: Match, namespace: str) -> Path:
        return [self.keys_of(block) for block in match.blocks]

    @staticmethod
    def keys_of(block: object) -> Key:
        tokens: tuple[int, ...] = ()
        while block.parent is not None:  # type: ignore[attr-defined]
            tokens = (*block.tokens, *tokens)  # type: ignore[attr-defined]
            block = block.parent  # type: ignore[attr-defined]
        return block.value, tokens  # type: ignore[attr-defined]


TestTreeOrders = TreeOrders.TestCase
TestTreeOrders.settings = settings(max_examples=examples(60), stateful_step_count=40, deadline=None)


def put(tree: PrefixTree, ids: list[int], namespace: str = "") -> None:
    start = tree.stored(namespace, ids) // tree.block * tree.block
    runs = [ids[i : i + tree.block] for i in range(start, len(ids), tree.block)]
    tree.insert(namespace, ids, start, [(tuple(run), len(run)) for run in runs])


def test_what_sequences_have_in_common_is_stored_once() -> None:
    tree = PrefixTree(10**6, 4)
    system = list(range(16))
    for user in range(100, 150):
        put(tree, [*system, user, user, user])
    assert tree.nbytes == 16 + 50 * 3
    assert tree.match("", [*system, 120, 120, 7]).length == 18


def test_a_tail_grows_with_its_conversation() -> None:
    tree = PrefixTree(10**6, 4)
    conversation = [7, 7]
    for turn in range(10):
        conversation += [turn] * 3
        put(tree, conversation)
        assert tree.nbytes == len(conversation)
        assert tree.match("", [*conversation, 99]).length == len(conversation)


def test_every_length_of_hit_is_found() -> None:
    tree = PrefixTree(10**6, 4)
    stored = list(range(11))
    put(tree, stored)
    for length in range(12):
        query = [*stored[:length], 99, 98]
        match = tree.match("", query)
        assert match.length == length
        values = [token for block in match.blocks for token in block.value]
        assert values[:length] == stored[:length]


def test_namespaces_share_nothing() -> None:
    tree = PrefixTree(10**6, 4)
    put(tree, [1, 2, 3, 4, 5], "a")
    assert tree.match("b", [1, 2, 3]).length == 0
    put(tree, [1, 2, 3, 4, 5], "b")
    assert tree.nbytes == 10


def test_the_least_recently_used_goes_first() -> None:
    tree = PrefixTree(12, 4)
    for first in (1, 2, 3):
        put(tree, [first] * 4)
    tree.match("", [1])
    put(tree, [4] * 4)
    held = [first for first in range(1, 5) if tree.match("", [first] * 4).length]
    assert held == [1, 3, 4]


def test_it_holds_no_more_blocks_than_it_may() -> None:
    tree = PrefixTree(10**6, 4, count=3)
    for first in (1, 2, 3, 4):
        put(tree, [first] * 4)
    held = [first for first in range(1, 5) if tree.match("", [first] * 4).length]
    assert held == [2, 3, 4]
    put(tree, [*[4] * 4, *range(10, 18)])  # three blocks: the last of them is new, too
    assert tree.match("", [*[4] * 4, *range(10, 18)]).length == 12
    put(tree, [*[4] * 4, *range(10, 22)])  # a fourth does not fit beside those above it
    assert tree.match("", [*[4] * 4, *range(10, 22)]).length == 12


def test_hits_are_found_among_many_siblings() -> None:
    tree = PrefixTree(10**9, 5)
    for ids in product(range(4), repeat=5):
        put(tree, list(ids)[: 2 + sum(ids) % 4])
    for ids in product(range(5), repeat=5):
        best = 0
        for block in tree._order:
            best = max(best, shared(block.tokens, ids))
        assert tree.match("", ids).length == best
