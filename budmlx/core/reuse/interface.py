"""Reusing: what the executor needs of a place where states of former prompts are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import mlx.core as mx

from budmlx.protocol import SessionFile


class Found(Protocol):
    """A stored state for the first `length` tokens of a prompt."""

    @property
    def length(self) -> int:
        """Tokens that need no computing."""

    def pin(self) -> None:
        """Keep it until `unpin`."""

    def unpin(self) -> None:
        """Undo one `pin`."""


class Taken(Protocol):
    """A copy on its way into the place."""

    @property
    def arrays(self) -> list[mx.array]:
        """Everything that must be evaluated before it may be stored."""


@dataclass(slots=True)
class Allowance:
    """What may be read from disk now, and what was.

    tokens: one block may be read, and more until so many tokens were. 0: reading does not pay.
    None: nothing may be read. read: tokens. declined: blocks that were not read, since reading
    does not pay. seconds: how long reading took.
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

    `Reuse` does so for caches that can be cut at any token, `CheckpointReuse` for others.
    """

    @property
    def enabled(self) -> bool:
        """Whether anything is ever stored."""

    @property
    def pending(self) -> bool:
        """Whether something waits to be saved while nothing else is to do."""

    @property
    def version(self) -> int:
        """Changes whenever more can be found."""

    @property
    def reserved(self) -> int:
        """Bytes that are kept whatever rows need."""

    def resize(self, room: int) -> None:
        """Take no more than the rows leave of the memory, in bytes."""

    def clear(self) -> None:
        """Forget everything."""

    def save(self) -> None:
        """Hand one piece of what waits to be saved to the disk."""

    def in_memory(self, namespace: str, ids: Sequence[int]) -> int:
        """How many tokens of `ids` need no disk: all, where there is none."""

    def restore(self, namespace: str, ids: Sequence[int], allowed: Allowance) -> bool:
        """Read what the disk has of `ids`; whether more is to come with the next allowance."""

    def close(self, seconds: float) -> None:
        """Save what can be saved in so much time."""

    def open_session(self, session: SessionFile | None) -> str:
        """Read a session, if that is asked for, for every row to begin with from now on.

        Returns why that cannot be, or nothing.
        """

    def find(self, namespace: str, ids: Sequence[int], computed: int) -> Found | None:
        """A stored beginning of `ids` that is worth its copy; it is pinned.

        computed: tokens of `ids` that need no computing anyway.
        """

    def dense(self, match: Any, capacity: int) -> list[Any]:
        """A cache for one row with a copy of what was found.

        capacity: tokens that the row needs room for soon.
        """

    def cut(
        self, namespace: str, ids: Sequence[int], cache: Callable[[], Sequence[Any]], *, tail: bool
    ) -> Taken | None:
        """A copy, not yet computed, of what is not stored of `ids`.

        cache: gives the cache of a row that holds them. tail: the very end of `ids` is wanted.
        """

    def store(self, cut: Any) -> None:
        """Hand over what `cut` returned, once it has been evaluated; None is ignored."""

    def keep(
        self, namespace: str, ids: Sequence[int], held: int, cache: Callable[[], Sequence[Any]]
    ) -> None:
        """Store what a row computed, as far as its cache holds it.

        ids: prompt and generated tokens. held: tokens that the cache holds; they may be fewer,
        or go on beyond `ids`.
        """
