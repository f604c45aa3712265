"""Reusing: the executor's interface to the store of former prompts' states."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import mlx.core as mx

from budmlx.protocol import DiskCounts, SessionFile


class StoredPrefix(Protocol):
    """A stored state for the first `length` tokens of a prompt."""

    @property
    def length(self) -> int:
        """Tokens that need no computing."""

    def pin(self) -> None:
        """Keep it until `unpin`."""

    def unpin(self) -> None:
        """Undo one `pin`."""


class PendingCopy(Protocol):
    """A copy of a state that is not evaluated and stored yet."""

    @property
    def arrays(self) -> list[mx.array]:
        """The arrays to evaluate before they are stored."""


@dataclass(slots=True)
class Allowance:
    """The budget for reading from disk, and the reading that was done.

    tokens: one block may be read, and more until this many tokens were. 0: reading does not pay.
    None: nothing may be read. read: tokens that were. declined: blocks that were not read, since
    reading does not pay. seconds: how long reading took.
    """

    tokens: int | None
    read: int = 0
    declined: int = 0
    seconds: float = 0.0

    @property
    def spent(self) -> bool:
        """Whether the rest must wait for the next allowance."""
        return self.tokens is None or (self.read > 0 and self.read >= self.tokens)


class Reusing(Protocol):
    """Stores and finds the states of rows by token ids.

    `BlockReuse` does so for caches that can be cut at any token, `CheckpointReuse` for others.

    limit: bytes at most. `low` of a method says that it is for a row of the background, whose
    states are evicted before those that others use.
    """

    limit: int

    @property
    def enabled(self) -> bool:
        """Whether anything is ever stored."""

    @property
    def nbytes(self) -> int:
        """Bytes that are stored in memory."""

    @property
    def disk(self) -> DiskCounts:
        """What the disk tier did so far."""

    @property
    def pending(self) -> bool:
        """Whether states wait to be written to disk."""

    @property
    def reads_disk(self) -> bool:
        """Whether there is a disk tier."""

    @property
    def version(self) -> int:
        """Changes whenever more can be found."""

    @property
    def reserved(self) -> int:
        """Bytes that are never evicted."""

    def resize(self, room: int) -> None:
        """Evict down to `room`, the bytes that rows leave, or to the limit if that is less."""

    def clear(self) -> None:
        """Forget everything."""

    def save(self) -> None:
        """Queue one of the waiting states for the disk."""

    def in_memory(self, namespace: str, ids: Sequence[int]) -> int:
        """Tokens of `ids` that are in memory; all of them where there is no disk tier."""

    def restore(
        self, namespace: str, ids: Sequence[int], allowed: Allowance, *, low: bool = False
    ) -> bool:
        """Read what the disk has of `ids`; returns whether there is more for the next allowance."""

    def close(self, seconds: float) -> None:
        """Write to disk what can be written within `seconds`."""

    def open_session(self, session: SessionFile | None, adapters: Collection[str] = ("",)) -> str:
        """Load a session for every row to begin with from now on; one to be saved is ignored.

        adapters: those one of which it must be saved with; the empty one for none. Only rows with
        the same one begin with it. Returns the reason why it cannot be used, or an empty string.
        """

    def find(
        self,
        namespace: str,
        ids: Sequence[int],
        computed: int,
        adapter: str = "",
        *,
        low: bool = False,
    ) -> StoredPrefix | None:
        """A stored beginning of `ids` that is worth its copy; it is pinned.

        computed: tokens of `ids` that need no computing anyway. adapter: whose sessions it may be.
        """

    def places(
        self, wanted: Sequence[int], nbytes: Callable[[int], int], marked: Collection[int] = ()
    ) -> list[int]:
        """Those of the wanted places in a prompt, ascending, at which its state is to be kept.

        nbytes: bytes of a state after so many tokens. marked: those that the request names.
        """

    def retain(self, namespace: str, ids: Sequence[int], seconds: float) -> None:
        """Evict what is stored of `ids` after all others for so long, within a share of all."""

    def dense(self, match: Any, capacity: int) -> list[Any]:
        """A contiguous cache for one row, one entry per layer, with a copy of a stored prefix.

        capacity: tokens that the row needs room for soon.
        """

    def cut(
        self,
        namespace: str,
        ids: Sequence[int],
        cache: Callable[[], Sequence[Any]],
        *,
        tail: bool,
        low: bool = False,
    ) -> PendingCopy | None:
        """A copy, not yet computed, of the part of `ids` that is not stored; None if all is.

        cache: gives the cache of a row that holds them. tail: the very end of `ids` is wanted.
        """

    def store(self, cut: Any) -> None:
        """Store what `cut` returned, once it has been evaluated; None is ignored."""

    def keep(
        self,
        namespace: str,
        ids: Sequence[int],
        held: int,
        cache: Callable[[], Sequence[Any]],
        *,
        low: bool = False,
    ) -> None:
        """Store the KV of a row that leaves, as far as its cache holds it.

        ids: prompt and generated tokens. held: tokens that the cache holds; they may be fewer,
        or go on beyond `ids`.
        """
