"""Job: what the core computes for one request, as those see it who submit and release it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Job(Protocol):
    """What the core computes for one request: rows, or texts to make vectors of.

    running: those of its requests that the core still works on.
    """

    running: set[int]

    @property
    def adapter(self) -> str:
        """The digest of the adapter that it uses; empty for none."""

    @property
    def row_ids(self) -> list[int]:
        """The ids of its requests to the core."""

    def stamp_start(self, now: float) -> None:
        """The core began it at `now`. Called on the host's thread, as `deliver` is."""

    def deliver(self, updates: Sequence[Any], now: float) -> None:
        """Take what the core says of it."""
