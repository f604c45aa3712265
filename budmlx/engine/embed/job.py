"""Embedding job: the vectors of one request between the core and the caller."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from budmlx.engine.procedures import Mailbox
from budmlx.engine.reply.generation import error_of
from budmlx.protocol import RowFailed, Vector
from budmlx.types import Timing

Update = Vector | RowFailed
Array = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


class EmbeddingJob:
    """Collects the vectors of texts, which are spread over several requests to the core.

    first: the number of the first text of each request, by the request's id. count: of all texts.
    running: requests that the core still works on. over: all vectors are here.
    """

    adapter = ""

    def __init__(self, first: dict[int, int], count: int):
        self.row_ids = list(first)
        self.running = set(first)
        self.mailbox: Mailbox[Sequence[Update]] = Mailbox()
        self._first = first
        self._vectors: dict[int, Array] = {}
        self._count = count
        self._submitted = time.monotonic()
        self._started: float | None = None
        self._last = self._submitted

    @property
    def done(self) -> int:
        """How many texts have their vectors."""
        return len(self._vectors)

    @property
    def over(self) -> bool:
        """Whether all have."""
        return self.done == self._count

    @property
    def vectors(self) -> Array:
        """The vectors [texts, dimensions], once it is over."""
        return np.stack([self._vectors[number] for number in range(self._count)])

    @property
    def timing(self) -> Timing:
        """How long it took."""
        started = self._started or self._submitted
        return Timing(started - self._submitted, self._last - started, 0.0)

    def stamp_start(self, now: float) -> None:
        """Note that a first text left the queue. Called on the host's thread."""
        self._started = self._started or now

    def deliver(self, updates: Sequence[Update], now: float) -> None:
        """Take what the core says. Called on the host's thread."""
        self._last = now
        for update in updates:
            if isinstance(update, RowFailed) or update.last:
                self.running.discard(update.id)
        self.mailbox.put(updates)

    def take(self, updates: Sequence[Update]) -> None:
        """Note vectors. Raises BudmlxError if the core could not compute them."""
        for update in updates:
            if isinstance(update, RowFailed):
                raise error_of(update)
            number = self._first[update.id] + update.text
            self._vectors[number] = np.frombuffer(update.values, dtype="<f4")
