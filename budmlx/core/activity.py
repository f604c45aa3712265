"""Activity: what the core's thread does now and how long that may take, for those who watch it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Hashable

from budmlx.protocol.note import BEAT, BEAT_AT, COMPUTES_AT, PLUGIN_AT, PULSE, PULSE_AT

# Seconds for what has not run before in this process: a back end builds kernels at their first
# use, which took 43 s on the slowest occasion seen.
FIRST_USE_SECONDS = 600.0
# A plan may take this many times as long as the longest of late, such as when memory is swapped.
SLACK = 20.0
# The share of the longest plan that is left after one more.
FADES = 0.999


class NoteWriter:
    """Writes the parts of a `Note`.

    descriptor: of its file; None, as for a core in a thread of its parent, writes nothing.
    """

    def __init__(self, descriptor: int | None = None):
        self.descriptor = descriptor
        self._pulses = 0

    def beat(self, beats: int, allowed: float, longest: float) -> None:
        """See `Note`."""
        self._write(BEAT.pack(beats, allowed, longest), BEAT_AT)

    def pulse(self) -> None:
        """Count one more pulse."""
        self._pulses += 1
        self._write(PULSE.pack(self._pulses), PULSE_AT)

    def plugin(self, name: str) -> None:
        """Replace the name; an empty one clears it."""
        self._write(name.encode() + b"\0", PLUGIN_AT)

    def computes(self, computes: bool) -> None:
        """See `Note`."""
        self._write(bytes([computes]), COMPUTES_AT)

    def _write(self, data: bytes, offset: int) -> None:
        if self.descriptor is not None:
            # A plain write, since it fails where a write to mapped memory would end the process.
            with contextlib.suppress(OSError):
                os.pwrite(self.descriptor, data, offset)


class Activity:
    """The plans of a core, as signs of life, and the kinds of work that its process knows.

    begun_at: the `time.monotonic` of the last sign. longest: see `Note`. new: what runs now has
    never run before.
    Only the core's thread writes; other threads may read these.
    """

    def __init__(self, note: NoteWriter | None = None):
        self.begun_at = time.monotonic()
        self.longest = 0.0
        self.new = False
        self._note = note or NoteWriter()
        self._beats = 0
        self._known: set[Hashable] = set()
        self._unknown: list[Hashable] = []

    def begin(self) -> None:
        """Record that a plan begins."""
        self._unknown.clear()
        self.new = False
        self._beat(SLACK * self.longest)

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
            self._beat(SLACK * self.longest)
        else:
            self.longest = max(seconds, FADES * self.longest)
        return was_new

    def _beat(self, allowed: float) -> None:
        self._beats += 1
        self.begun_at = time.monotonic()
        self._note.beat(self._beats, allowed, self.longest)
