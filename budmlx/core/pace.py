"""How many prompt tokens a turn may compute, so that running rows keep streaming."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# A turn that also prefills may take longer than one that only decodes: by this share of it
# for each row that decodes while another one waits for its prompt ...
SLOWDOWN = 1.5
# ... but not more, however many wait.
LARGEST_SLOWDOWN = 8.0
# Weight of the newest measurement in the moving averages.
NEWEST = 0.2
SMALLEST_CHUNK = 32


@dataclass(slots=True)
class Turn:
    """One measured turn; `prefilled` is set by its end."""

    prefilled: int = 0


class Line:
    """The recent relation of two figures, y = a + b x, by weighted least squares."""

    def __init__(self) -> None:
        self._weight = self._x = self._y = self._xx = self._xy = 0.0

    def add(self, x: float, y: float) -> None:
        """Take a measurement; older ones lose weight."""
        keep = 1 - NEWEST
        self._weight = keep * self._weight + 1
        self._x = keep * self._x + x
        self._y = keep * self._y + y
        self._xx = keep * self._xx + x * x
        self._xy = keep * self._xy + x * y

    def solve(self, y: float) -> float | None:
        """The x that gives `y`; None before the first measurement."""
        if not self._weight:
            return None
        x, mean = self._x / self._weight, self._y / self._weight
        spread = self._xx / self._weight - x * x
        slope = (self._xy / self._weight - x * mean) / spread if spread > 1 else 0.0
        if slope <= 0:
            # All measurements were alike: assume that the cost is in proportion.
            return y * x / max(mean, 1e-9)
        return x + (y - mean) / slope


class Pace:
    """Learns what decoding and prefilling cost from the turns themselves.

    A forward pass has a fixed cost beside that of its tokens, hence the line.

    chunk: most prompt tokens of any turn.
    """

    def __init__(self, chunk: int):
        self._chunk = chunk
        self._quiet: float | None = None
        self._prefill = Line()

    def budget(self, decoding: int, waiting: int) -> int:
        """Prompt tokens that this turn may compute.

        decoding: rows that generate. waiting: rows whose prompt is not computed yet.
        """
        if not decoding:
            return self._chunk
        share = SLOWDOWN * max(1.0, waiting / decoding)
        affordable = self._prefill.solve(min(share, LARGEST_SLOWDOWN) * (self._quiet or 0.0))
        if self._quiet is None or affordable is None:
            affordable = 4 * SMALLEST_CHUNK
        return min(self._chunk, max(SMALLEST_CHUNK, int(affordable)))

    @contextmanager
    def turn(self, *, decoding: bool) -> Iterator[Turn]:
        """Measure one turn. The device works asynchronously, so only whole turns tell."""
        turn = Turn()
        begin = time.perf_counter()
        yield turn
        seconds = time.perf_counter() - begin
        if turn.prefilled:
            quiet = (self._quiet or 0.0) if decoding else 0.0
            self._prefill.add(turn.prefilled, max(seconds - quiet, 0.0))
        elif decoding:
            old = seconds if self._quiet is None else self._quiet
            self._quiet = (1 - NEWEST) * old + NEWEST * seconds
