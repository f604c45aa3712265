"""Lookups: a bounded LRU mapping, and an index of values by prefixes of token ids.

Standard library only; every ring may import it.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Bounded(Generic[K, V]):
    """A bounded LRU mapping: the least recently used entries are evicted. Not thread-safe.

    count: entries at most. limit: most that the costs of all entries may add up to; `cost` is
    their sum. removed: called with each key that leaves, for whatever reason. rank: of a value;
    those of lower ranks are evicted before all others, and rank 0 is the lowest.
    """

    def __init__(
        self,
        *,
        count: float = math.inf,
        limit: float = math.inf,
        removed: Callable[[K], None] | None = None,
        rank: Callable[[V], int] | None = None,
    ):
        self._rank = rank
        self.count = count
        self.limit = limit
        self.cost = 0
        self._removed = removed
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: K) -> bool:
        return key in self._entries

    def values(self) -> list[V]:
        """All values, the least recently used first."""
        return [value for value, _ in self._entries.values()]

    def peek(self, key: K) -> V | None:
        """The value of a key, which does not count as used; None if there is none."""
        entry = self._entries.get(key)
        return None if entry is None else entry[0]

    def get(self, key: K) -> V | None:
        """The value of a key, which becomes the most recently used; None if there is none."""
        if key in self._entries:
            self._entries.move_to_end(key)
        return self.peek(key)

    def put(self, key: K, value: V, cost: int = 1) -> bool:
        """Set the value of a key; returns False if its cost alone exceeds the limit."""
        self.pop(key)
        if cost > self.limit:
            return False
        self._entries[key] = (value, cost)
        self.cost += cost
        self._evict()
        return True

    def pop(self, key: K) -> V | None:
        """Remove a key, if it is there; returns its value or None."""
        if key not in self._entries:
            return None
        value, cost = self._entries.pop(key)
        self.cost -= cost
        if self._removed is not None:
            self._removed(key)
        return value

    def resize(self, limit: float) -> None:
        """Set the limit, and evict what is beyond it."""
        self.limit = limit
        self._evict()

    def clear(self) -> None:
        """Remove everything."""
        for key in list(self._entries):
            self.pop(key)

    def _evict(self) -> None:
        while len(self._entries) > self.count or self.cost > self.limit:
            self.pop(self._victim())

    def _victim(self) -> K:
        first = next(iter(self._entries))
        if self._rank is None:
            return first
        lowest = math.inf
        for key, (value, _) in self._entries.items():
            if (rank := self._rank(value)) < lowest:
                first, lowest = key, rank
            if lowest == 0:
                break
        return first


@dataclass(frozen=True, slots=True)
class Prefix:
    """Token ids as a key: the namespace that may reuse their values, their number and digest."""

    namespace: str
    length: int
    digest: bytes

    @classmethod
    def of(cls, namespace: str, ids: Sequence[int]) -> Prefix:
        """The key of exactly these ids."""
        return cls(namespace, len(ids), _digest(ids).digest())


class PrefixIndex(Generic[V]):
    """An index of values by token ids, found by any ids that begin with those. Not thread-safe.

    Only digests of the ids are kept. count, limit, removed, rank: as of `Bounded`.
    """

    def __init__(
        self,
        *,
        count: float = math.inf,
        limit: float = math.inf,
        removed: Callable[[Prefix], None] | None = None,
        rank: Callable[[V], int] | None = None,
    ):
        self._removed = removed
        self.entries: Bounded[Prefix, V] = Bounded(
            count=count, limit=limit, removed=self._note_removed, rank=rank
        )
        self._lengths: Counter[int] = Counter()

    def put(self, key: Prefix, value: V, cost: int) -> bool:
        """Set the value of a prefix; returns False if its cost alone exceeds the limit."""
        self._lengths[key.length] += 1
        kept = self.entries.put(key, value, cost)
        if not kept:
            self._note_removed(key)
        return kept

    def walk(self, namespace: str) -> PrefixWalk[V]:
        """A walk along ids from one indexed prefix to the next."""
        return PrefixWalk(self, namespace)

    def lengths(self, more_than: int, at_most: int) -> Iterable[int]:
        """Lengths of indexed prefixes within bounds, in ascending order."""
        return sorted(length for length in self._lengths if more_than < length <= at_most)

    def _note_removed(self, key: Prefix) -> None:
        if self._removed is not None:
            self._removed(key)
        self._lengths[key.length] -= 1
        if not self._lengths[key.length]:
            del self._lengths[key.length]


class PrefixWalk(Generic[V]):
    """A walk along token ids, from each indexed prefix to the next longer one.

    place: the number of ids passed. Those after them may change between two calls of `next`.
    """

    def __init__(self, index: PrefixIndex[V], namespace: str):
        self.place = 0
        self._index = index
        self._namespace = namespace
        self._digest = _digest(())

    @property
    def key(self) -> Prefix:
        """The key of the ids passed so far."""
        return Prefix(self._namespace, self.place, self._digest.digest())

    def next(self, ids: Sequence[int]) -> V | None:
        """The value of the next prefix of `ids`, which does not count as used; None if no more."""
        for length in self._index.lengths(self.place, len(ids)):
            self._digest.update(_bytes(ids[self.place : length]))
            self.place = length
            if (value := self._index.entries.peek(self.key)) is not None:
                return value
        return None


def _digest(ids: Sequence[int]) -> hashlib.blake2b:
    return hashlib.blake2b(_bytes(ids), digest_size=16)


def _bytes(ids: Sequence[int]) -> bytes:
    return array("q", ids).tobytes()
