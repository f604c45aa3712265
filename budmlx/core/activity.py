"""Activity: what the core's thread does now and how long that may take; a tally of its steps."""

from __future__ import annotations

import contextlib
import os
import time
from bisect import bisect_left
from collections.abc import Callable, Hashable, Sequence
from copy import deepcopy

import msgspec

from budmlx.protocol import CoreCounts, CoreReport, StepFrame
from budmlx.protocol.counts import GAPS, ROWS, Histogram, plus
from budmlx.protocol.note import BEAT, BEAT_AT, COMPUTES_AT, PLUGIN_AT, PULSE, PULSE_AT

# Seconds between the empty frames of an idle core, and between reports of a busy one; readiness
# needs a frame every few seconds.
HEARTBEAT = 1.0
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


class Tally:
    """Counts what steps do, and reports it when nothing is left to do, and every second.

    measure: called before a report; adds what others count, and returns the bytes of stored KV.
    """

    def __init__(self, measure: Callable[[CoreCounts], int]):
        self._counts = CoreCounts()
        self._measure = measure
        self._reported = 0.0

    def counted(self, frame: StepFrame, seconds: float, *, idle: bool) -> StepFrame:
        """The frame of a step, perhaps with a report. seconds: how long it took."""
        counts = self._counts
        if rows := len({token.id for token in frame.tokens}):
            count(counts.rows, ROWS, rows)
            count(counts.gaps, GAPS, seconds, rows)
        counts.preempted += frame.resumed
        if frame.drafts is not None:
            counts.drafts = plus(counts.drafts, frame.drafts)
        counts.busy += seconds
        now = time.monotonic()
        if not idle and now < self._reported + HEARTBEAT:
            return frame
        self._reported = now
        stored = self._measure(counts)
        # A copy, since the thread host passes it on as it is.
        return msgspec.structs.replace(frame, report=CoreReport(deepcopy(counts), stored))


def count(histogram: Histogram, bounds: Sequence[float], value: float, times: int = 1) -> None:
    """Count a value in its class. bounds: of the classes, always the same ones."""
    if not histogram.counts:
        histogram.counts = [0] * (len(bounds) + 1)
    histogram.counts[bisect_left(bounds, value)] += times
    histogram.sum += times * value
