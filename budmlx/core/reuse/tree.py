"""A radix tree over token ids, which stores common prefixes of sequences once.

The tree knows neither models nor arrays: the values it holds are opaque.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

# Tokens of a block.
BLOCK = 256
# The share of all bytes that may be retained.
RETAINED_SHARE = 0.5
# The share of all bytes that work in the background may take from others.
BACKGROUND_SHARE = 0.25

Clock = Callable[[], float]


@dataclass(eq=False, slots=True)
class Block:
    """A node of the tree: a run of tokens, and the value that is stored for them.

    tokens: `PrefixTree.block` of them; fewer only where no children follow.
    value: opaque; a root's is its namespace. pins: how many hold this block or one below it.
    retained: until when, on the tree's clock, it is evicted after all others.
    children: sorted by their tokens; none begins with all tokens of another.
    key: the block's name in another store (see `tier`); empty again when the tokens change.
    """

    parent: Block | None = None
    tokens: tuple[int, ...] = ()
    value: Any = None
    nbytes: int = 0
    pins: int = 0
    retained: float = 0.0
    children: list[Block] = field(default_factory=list)
    key: bytes = b""


@dataclass(frozen=True, slots=True)
class Match:
    """The blocks, from the root on, of the longest stored prefix of a sequence.

    length: tokens that match; all of every block but the last, of which some may be left over.
    """

    tree: PrefixTree
    blocks: tuple[Block, ...]
    length: int

    def pin(self) -> None:
        """Keep these blocks until `unpin`."""
        self.tree.hold(self.blocks)

    def unpin(self) -> None:
        """Undo one `pin`, and evict what only the pin kept beyond the limit."""
        self.tree.let_go(self.blocks)
        self.tree.resize(self.tree.limit)


class PrefixTree:
    """Holds blocks up to a limit in bytes; the least recently used one is evicted first.

    Blocks that only the background used, the low ones, go before all others. It takes the place
    of others only as far as its own have less than `BACKGROUND_SHARE`.

    block: tokens of a full block. count: most blocks. version: changes whenever more can match.
    leaving: called with each block just before its eviction; it must not use the tree.
    replaced: called with a copy of each block in whose place a longer one comes.
    clock: gives the time by which blocks are retained, in seconds.
    `_order` holds the blocks, least recently used first, and `_low` the low ones. Whatever uses a
    block uses those above it a moment later, so those above are never low if it is not.
    """

    def __init__(
        self,
        limit: int,
        block: int = BLOCK,
        leaving: Callable[[Block], None] | None = None,
        count: float = math.inf,
        replaced: Callable[[Block], None] | None = None,
        clock: Clock = time.monotonic,
    ):
        self.block = block
        self.limit = limit
        self.count = count
        self.nbytes = 0
        self.pinned = 0
        self.version = 0
        self._leaving = leaving
        self._replaced = replaced
        self._clock = clock
        self._roots: dict[str, Block] = {}
        self._order: OrderedDict[Block, None] = OrderedDict()
        self._low: OrderedDict[Block, None] = OrderedDict()
        self._low_bytes = 0

    def match(self, namespace: str, ids: Sequence[int], *, low: bool = False) -> Match:
        """The longest stored prefix of `ids`. This uses its blocks. low: for the background."""
        path: list[Block] = []
        length = 0
        node = self._roots.get(namespace)
        while node is not None:
            run = tuple(ids[length : length + self.block])
            child, common = _closest(node.children, run)
            if child is None:
                break
            path.append(child)
            length += common
            node = child if common == self.block else None
        self._use(path, low=low)
        return Match(self, tuple(path), length)

    def stored(self, namespace: str, ids: Sequence[int]) -> int:
        """The number of tokens of `ids` in whole blocks, or all if the rest is stored too."""
        path = self._path(namespace, ids)
        return min(len(path) * self.block, len(ids))

    def insert(
        self,
        namespace: str,
        ids: Sequence[int],
        start: int,
        values: Iterable[tuple[Any, int]],
        *,
        low: bool = False,
    ) -> list[Block]:
        """Store the blocks of `ids` from token `start` on, as many as there is room for.

        start: a multiple of `block`; what comes before must be stored, else nothing is.
        values: of each block with its bytes, in order. Those that are there already are used.
        A block that ended early is replaced by one that begins with it. low: for the background.
        Returns those that took their value.
        """
        path = self._path(namespace, ids[:start])
        if len(path) * self.block != start:
            return []
        new = []
        root = self._roots.setdefault(namespace, Block(value=namespace))
        node = path[-1] if path else root
        self.hold([root, *path])
        for number, (value, nbytes) in enumerate(values):
            begin = start + number * self.block
            tokens = tuple(ids[begin : begin + self.block])
            child = self._put(node, tokens, value, nbytes, low=low)
            if child is None:
                break
            if child.value is value:
                new.append(child)
            path.append(child)
            self.hold([child])
            node = child
        self.let_go([root, *path])
        self._use(path, low=low)
        if not root.children:
            del self._roots[namespace]
        return new

    def retain(self, namespace: str, ids: Sequence[int], seconds: float) -> None:
        """Evict the blocks that hold `ids` after all others for so long.

        Those at the end are left out if all that are retained would take more than
        `RETAINED_SHARE` of the limit.
        """
        now = self._clock()
        room = self.limit * RETAINED_SHARE
        everything = chain(self._low, self._order)
        room -= sum(block.nbytes for block in everything if block.retained > now)
        # Those above come first, so that a block is never retained longer than its parent.
        for block in self.match(namespace, ids, low=True).blocks:
            room -= 0 if block.retained > now else block.nbytes
            if room < 0:
                break
            block.retained = max(block.retained, now + seconds)

    def resize(self, limit: int) -> None:
        """Set the limit, and evict down to it as far as pins allow."""
        self.limit = limit
        self._evict(limit, self.count, retained=True)

    def hold(self, blocks: Iterable[Block]) -> None:
        """Protect blocks from eviction; a holder of a block must hold those above it, too."""
        for block in blocks:
            self.pinned += 0 if block.pins else block.nbytes
            block.pins += 1

    def let_go(self, blocks: Iterable[Block]) -> None:
        """Undo one `hold`."""
        for block in blocks:
            block.pins -= 1
            self.pinned -= 0 if block.pins else block.nbytes

    def _path(self, namespace: str, ids: Sequence[int]) -> list[Block]:
        """Stored blocks that hold `ids` from its beginning; only the last may hold more."""
        path: list[Block] = []
        node = self._roots.get(namespace)
        for begin in range(0, len(ids), self.block):
            run = tuple(ids[begin : begin + self.block])
            child, common = _closest(node.children, run) if node is not None else (None, 0)
            if child is None or common < len(run):
                break
            path.append(child)
            node = child
        return path

    def _put(
        self, parent: Block, tokens: tuple[int, ...], value: Any, nbytes: int, *, low: bool
    ) -> Block | None:
        """The child that holds these tokens; None if there is no room for it."""
        index = bisect_left(parent.children, tokens, key=_tokens)
        if index < len(parent.children) and _begins(parent.children[index].tokens, tokens):
            return parent.children[index]
        shorter = parent.children[index - 1] if index else None
        if shorter is not None and _begins(tokens, shorter.tokens):
            return self._grow(shorter, tokens, value, nbytes, low=low)
        fits = self.pinned + nbytes <= self.limit
        if not fits or not self._evict(self.limit - nbytes, self.count - 1, low=low):
            return None
        block = Block(parent, tokens, value, nbytes)
        # The eviction may have taken siblings.
        parent.children.insert(bisect_left(parent.children, tokens, key=_tokens), block)
        (self._low if low else self._order)[block] = None
        self._low_bytes += nbytes if low else 0
        self.nbytes += nbytes
        self.version += 1
        return block

    def _grow(
        self, block: Block, tokens: tuple[int, ...], value: Any, nbytes: int, *, low: bool
    ) -> Block | None:
        self.hold([block])
        extra = nbytes - block.nbytes
        fits = self.pinned + extra <= self.limit
        room = fits and self._evict(self.limit - extra, self.count, low=low)
        if room:
            if self._replaced is not None:
                self._replaced(replace(block))
            block.tokens, block.value, block.nbytes, block.key = tokens, value, nbytes, b""
            self.nbytes += extra
            self._low_bytes += extra if block in self._low else 0
            self.pinned += extra
            self.version += 1
        self.let_go([block])
        return block if room else None

    def _evict(
        self, nbytes: int, count: float, *, retained: bool = False, low: bool = False
    ) -> bool:
        """Drop blocks until `count` of `nbytes` at most are left; False if pins forbid it.

        retained: drop those that are retained, too, after all others. low: for the background.
        """
        while self.nbytes > nbytes or len(self._order) + len(self._low) > count:
            victim = self._victim(low=low)
            if victim is None or (victim.retained > self._clock() and not retained):
                return False
            if self._leaving is not None:
                self._leaving(victim)
            self._remove(victim)
        return True

    def _victim(self, *, low: bool) -> Block | None:
        now = self._clock()
        last = None
        blocks: Iterable[Block] = chain(self._low, self._order)
        if low:
            poor = self._low_bytes < BACKGROUND_SHARE * self.limit
            blocks = chain(self._order, self._low) if poor else self._low
        for block in blocks:
            if block.pins or block.children:
                continue
            if block.retained <= now:
                return block
            last = last or block
        return last

    def _remove(self, block: Block) -> None:
        parent = block.parent
        assert parent is not None and not block.children
        del parent.children[bisect_left(parent.children, block.tokens, key=_tokens)]
        if block in self._low:
            del self._low[block]
            self._low_bytes -= block.nbytes
        else:
            del self._order[block]
        self.nbytes -= block.nbytes
        if parent.parent is None and not parent.children and not parent.pins:
            del self._roots[parent.value]

    def _use(self, path: Sequence[Block], *, low: bool) -> None:
        for block in reversed(path):
            if block in self._low:
                if low:
                    self._low.move_to_end(block)
                    continue
                del self._low[block]
                self._low_bytes -= block.nbytes
                self._order[block] = None
            elif not low:
                self._order.move_to_end(block)


def _tokens(block: Block) -> tuple[int, ...]:
    return block.tokens


def _begins(tokens: tuple[int, ...], start: tuple[int, ...]) -> bool:
    return tokens[: len(start)] == start


def _closest(children: Sequence[Block], run: tuple[int, ...]) -> tuple[Block | None, int]:
    """The child with the longest common beginning, and how many tokens that is.

    In sorted order, nothing has more in common with `run` than its neighbours.
    """
    index = bisect_left(children, run, key=_tokens)
    best, longest = None, 0
    for child in children[max(index - 1, 0) : index + 1]:
        common = _common(child.tokens, run)
        if common > longest:
            best, longest = child, common
    return best, longest


def _common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    if a == b:
        return len(a)
    for index, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return index
    return min(len(a), len(b))
