"""Checkpoints: whole states of rows, for caches that cannot be cut at any token, such as those of
sliding windows and recurrent layers. A state serves prompts that begin with exactly its tokens.

States are kept where the engine expects other prompts to part (the end of the instructions, the
ends of turns, the beginning of the last message), where a prompt ends, and where a row ends, for
the next turn of its conversation.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from budmlx.core.model.memory import state_arrays
from budmlx.core.reuse.interface import Allowance
from budmlx.core.reuse.tree import BACKGROUND_SHARE, RETAINED_SHARE, Clock
from budmlx.lookup import Prefix, PrefixIndex
from budmlx.protocol import LEAST_REUSED, LEAST_STRETCH, DiskCounts, SessionFile

# The share of all bytes, and of all checkpoints, that the ends of one conversation's turns may
# take: other conversations are waiting for theirs.
TURNS_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The cache of a row that had computed the tokens of `key`; it must not be changed.

    cache: one entry per layer. low: it is of the background.
    """

    key: Prefix
    cache: list[Any]
    low: bool = False

    @classmethod
    def of(
        cls, namespace: str, ids: Sequence[int], cache: Sequence[Any], *, low: bool = False
    ) -> Checkpoint:
        """A copy, not yet computed, of a row's cache that holds exactly `ids`."""
        arrays = state_arrays(cache)
        # An array that is a part of another, of the state of a batch say, holds all its memory.
        compact = {id(array): mx.contiguous(array) for array in arrays}
        whole = copy.deepcopy(list(cache), compact)
        return cls(Prefix.of(namespace, ids), whole, low)

    @property
    def length(self) -> int:
        """Tokens that need no computing."""
        return self.key.length

    @property
    def arrays(self) -> list[mx.array]:
        """The arrays to evaluate before the checkpoint is used."""
        return state_arrays(self.cache)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for array in self.arrays)

    def pin(self) -> None:
        """Nothing to do: a checkpoint is kept as long as it is referenced."""

    def unpin(self) -> None:
        """See `pin`."""


class Checkpoints:
    """Holds checkpoints up to a limit in bytes; the least recently used one is evicted first.

    Those that only the background used go before all others; see `PrefixTree`.

    count: most checkpoints. version: changes whenever more can be found. clock: see `PrefixTree`.
    """

    def __init__(self, limit: int, count: float = math.inf, clock: Clock = time.monotonic):
        self.version = 0
        self._clock = clock
        self._retained: dict[Prefix, float] = {}
        self._low: dict[Prefix, int] = {}  # bytes
        self._low_first = True
        self._kept: PrefixIndex[Checkpoint] = PrefixIndex(
            count=count, limit=limit, rank=self._rank, removed=self._note_removed
        )

    @property
    def count(self) -> float:
        """How many there may be."""
        return self._kept.entries.count

    @property
    def limit(self) -> int:
        """Bytes that all of them may take."""
        return int(self._kept.entries.limit)

    @property
    def nbytes(self) -> int:
        """Bytes that all of them take."""
        return self._kept.entries.cost

    def find(
        self, namespace: str, ids: Sequence[int], more_than: int, *, low: bool = False
    ) -> Checkpoint | None:
        """The longest checkpoint for a beginning of `ids` of more than `more_than` tokens."""
        found = self._longest(namespace, ids)
        if found is None or found.length <= more_than:
            return None
        if not low:
            self._low.pop(found.key, None)
        elif found.key not in self._low:
            return found
        return self._kept.entries.get(found.key)

    def covered(self, namespace: str, ids: Sequence[int]) -> int:
        """Tokens of `ids` that the longest checkpoint has; it does not count as used."""
        found = self._longest(namespace, ids)
        return 0 if found is None else found.length

    def _longest(self, namespace: str, ids: Sequence[int]) -> Checkpoint | None:
        found, walk = None, self._kept.walk(namespace)
        while (longer := walk.next(ids)) is not None:
            found = longer
        return found

    def stored(self, namespace: str, ids: Sequence[int]) -> bool:
        """Whether there is one for exactly these ids."""
        return Prefix.of(namespace, ids) in self._kept.entries

    def store(self, checkpoint: Checkpoint) -> bool:
        """Store a checkpoint; returns False if there is one already, or if it does not fit."""
        if checkpoint.key in self._kept.entries:
            return False
        if checkpoint.low:
            self._low_first = sum(self._low.values()) >= BACKGROUND_SHARE * self.limit
            self._low[checkpoint.key] = checkpoint.nbytes
        kept = self._kept.put(checkpoint.key, checkpoint, checkpoint.nbytes)
        self._low_first = True
        self.version += kept
        return kept

    def retain(self, namespace: str, ids: Sequence[int], seconds: float) -> None:
        """Evict the longest checkpoint for a beginning of `ids` after others for so long."""
        found, now = self._longest(namespace, ids), self._clock()
        if found is None:
            return
        entries = self._kept.entries
        alive = {key: until for key, until in self._retained.items() if until > now}
        others = [each for key in alive if key != found.key and (each := entries.peek(key))]
        if found.nbytes + sum(each.nbytes for each in others) <= RETAINED_SHARE * self.limit:
            alive[found.key] = max(alive.get(found.key, 0.0), now + seconds)
        self._retained = alive

    def _rank(self, checkpoint: Checkpoint) -> int:
        if self._retained.get(checkpoint.key, 0.0) > self._clock():
            return 2
        return int((checkpoint.key in self._low) != self._low_first)

    def _note_removed(self, key: Prefix) -> None:
        self._low.pop(key, None)

    def resize(self, limit: int) -> None:
        """Set the limit, and drop what is beyond it."""
        self._kept.entries.resize(limit)

    def clear(self) -> None:
        """Forget everything."""
        self._kept.entries.clear()
        self.version += 1


class CheckpointReuse:
    """Stores and finds whole states by token ids, for caches that cannot be cut at any token.

    limit: bytes at most; 0 switches everything off. count: most checkpoints. stretch: fewest
    tokens between the ends of turns at which states are kept. clock: see `PrefixTree`.
    """

    pending = False
    reads_disk = False
    reserved = 0

    def __init__(
        self,
        limit: int,
        count: float = math.inf,
        *,
        stretch: int = LEAST_STRETCH,
        clock: Clock = time.monotonic,
    ):
        self.limit = limit
        self._kept = Checkpoints(limit, count, clock)
        self._stretch = stretch

    @property
    def enabled(self) -> bool:
        """Whether anything is ever stored."""
        return self.limit > 0

    @property
    def nbytes(self) -> int:
        """Bytes of all states."""
        return self._kept.nbytes

    @property
    def disk(self) -> DiskCounts:
        """Nothing: there is no disk tier."""
        return DiskCounts()

    @property
    def version(self) -> int:
        """Changes whenever more can be found."""
        return self._kept.version

    def resize(self, room: int) -> None:
        """Evict down to `room`, the bytes that rows leave, or to the limit if that is less."""
        self._kept.resize(max(0, min(self.limit, room)))

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()

    def save(self) -> None:
        """Nothing to do: states are not written to disk."""

    def in_memory(self, namespace: str, ids: Sequence[int]) -> int:
        """The length of `ids`, since there is no disk tier."""
        return len(ids)

    def restore(
        self, namespace: str, ids: Sequence[int], allowed: Allowance, *, low: bool = False
    ) -> bool:
        """False: nothing comes from disk."""
        return False

    def close(self, seconds: float) -> None:
        """Nothing to do."""

    def open_session(self, session: SessionFile | None, adapters: Collection[str] = ("",)) -> str:
        """Refuse to load a session, as there are none for such models; returns the reason."""
        return "" if session is None or session.save else "This model cannot begin with a session."

    def find(
        self,
        namespace: str,
        ids: Sequence[int],
        computed: int,
        adapter: str = "",
        *,
        low: bool = False,
    ) -> Checkpoint | None:
        """The longest state for a beginning of `ids` that is worth its copy.

        computed: tokens of `ids` that need no computing anyway.
        """
        found = self._kept.find(namespace, ids, computed, low=low)
        if found is None or (found.length - computed < LEAST_REUSED and found.length < len(ids)):
            return None
        return found

    def places(
        self, wanted: Sequence[int], nbytes: Callable[[int], int], marked: Collection[int] = ()
    ) -> list[int]:
        """See `Reusing`.

        The first and the last place are where other prompts are most likely to part. Those
        between are the ends of turns: the later ones are kept, `stretch` tokens apart, as far as
        all their states take no more than `TURNS_SHARE`.
        """
        if len(wanted) < 3:
            return list(wanted)
        # The request says of these that they come again.
        marked = [place for place in wanted if place in marked]
        first, *between, last = wanted
        room, count = TURNS_SHARE * self._kept.limit, TURNS_SHARE * self._kept.count
        kept = [last]
        for place in reversed(between):
            if min(place - first, kept[-1] - place) < self._stretch:
                continue
            room -= nbytes(place)
            if room < 0 or len(kept) > count:
                break
            kept.append(place)
        return sorted({first, *kept, *marked})

    def retain(self, namespace: str, ids: Sequence[int], seconds: float) -> None:
        """See `Reusing`."""
        self._kept.retain(namespace, ids, seconds)

    def dense(self, match: Checkpoint, capacity: int) -> list[Any]:
        """A copy of a state for one row to continue, one entry per layer."""
        return copy.deepcopy(match.cache)

    def cut(
        self,
        namespace: str,
        ids: Sequence[int],
        cache: Callable[[], Sequence[Any]],
        *,
        tail: bool,
        low: bool = False,
    ) -> Checkpoint | None:
        """A copy, not yet computed, of the state after `ids`, if there is none.

        cache: gives the cache of a row that holds exactly `ids`. tail: a state is wanted here.
        """
        if not tail or not ids or not self._kept.limit or self._kept.stored(namespace, ids):
            return None
        return Checkpoint.of(namespace, ids, cache(), low=low)

    def store(self, cut: Checkpoint | None) -> None:
        """Store what `cut` returned, once it has been evaluated."""
        if cut is not None:
            self._kept.store(cut)

    def keep(
        self,
        namespace: str,
        ids: Sequence[int],
        held: int,
        cache: Callable[[], Sequence[Any]],
        *,
        low: bool = False,
    ) -> None:
        """Store the state in which a row leaves, unless it has run ahead of its ids.

        ids: prompt and generated tokens. held: tokens that the cache holds. A state that saves
        fewer than `LEAST_REUSED` tokens over what is stored is not worth its bytes.
        """
        if held > len(ids) or not self._kept.limit:
            return
        ids = ids[:held]
        if held - self._kept.covered(namespace, ids) < LEAST_REUSED:
            return
        checkpoint = Checkpoint.of(namespace, ids, cache(), low=low)
        # Computed in the background, and only if it is kept.
        if self._kept.store(checkpoint):
            mx.async_eval(checkpoint.arrays)
