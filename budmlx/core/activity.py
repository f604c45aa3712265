"""Activity: what the core's thread does now and how long that may take, for those who watch it."""

from __future__ import annotations

import time
from collections.abc import Hashable

from budmlx.protocol.note import NoteWriter

# Seconds for what has not run before in this process: a back end builds kernels at their first
# use, which took 43 s on the slowest occasion seen.
FIRST_USE_SECONDS = 600.0
# A plan may take this many times as long as the longest of late, such as when memory is swapped.
SLACK = 20.0
# The share of the longest plan that is left after one more.
FADES = 0.999


class Activity:
    """The plans of a core, as signs of life, and the kinds of work that its process knows.

    begun_at: the `time.monotonic` of the last sign. new: what runs now has never run before.
    Only the core's thread writes; other threads may read both.
    """

    def __init__(self, note: NoteWriter | None = None):
        self.begun_at = time.monotonic()
        self.new = False
        self._note = note or NoteWriter()
        self._beats = 0
        self._known: set[Hashable] = set()
        self._unknown: list[Hashable] = []
        self._longest = 0.0

    def begin(self) -> None:
        """Record that a plan begins."""
        self._unknown.clear()
        self.new = False
        self._beat(SLACK * self._longest)

    def run(self, kind: Hashable) -> None:
        """Record a part of the plan that begins; what is of one kind runs the same kernels."""
        if kind in self._known:
            return
        self._unknown.append(kind)
        self.new = True
        self._beat(FIRST_USE_SECONDS)

    def end(self, seconds: float, *, failed: bool) -> bool:
        """Record that the plan is over; returns whether it did something new.

        seconds: its duration. failed: a part of it raised an error, so that nothing new is known.
        """
        was_new, self.new = self.new, False
        if was_new:
            if not failed:
                self._known.update(self._unknown)
            self._beat(SLACK * self._longest)
        else:
            self._longest = max(seconds, FADES * self._longest)
        return was_new

    def _beat(self, allowed: float) -> None:
        self._beats += 1
        self.begun_at = time.monotonic()
        self._note.beat(self._beats, allowed)


def scale(number: int, least: int) -> int:
    """The power of two that a number belongs to; all up to `least` belong together."""
    return max(number, least).bit_length()
