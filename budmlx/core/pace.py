"""How many prompt tokens a turn may compute, so that running rows keep streaming."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# A turn that also prefills may take this much longer than one that only decodes.
SLOWDOWN = 1.5
# Weight of the newest measurement in the moving averages.
NEWEST = 0.3
SMALLEST_CHUNK = 16


@dataclass(slots=True)
class Turn:
    """One measured turn; `prefilled` is set by its end."""

    prefilled: int = 0


class Pace:
    """Learns what decoding and prefilling cost from the turns themselves.

    chunk: most prompt tokens of any turn.
    """

    def __init__(self, chunk: int):
        self._chunk = chunk
        self._quiet: float | None = None
        self._per_token: float | None = None

    def budget(self, *, decoding: bool) -> int:
        """Prompt tokens that this turn may compute."""
        if not decoding:
            return self._chunk
        if self._quiet is None or self._per_token is None:
            return min(self._chunk, 4 * SMALLEST_CHUNK)
        affordable = int(SLOWDOWN * self._quiet / max(self._per_token, 1e-9))
        return max(min(SMALLEST_CHUNK, self._chunk), min(self._chunk, affordable))

    @contextmanager
    def turn(self, *, decoding: bool) -> Iterator[Turn]:
        """Measure one turn. The device works asynchronously, so only whole turns tell."""
        turn = Turn()
        begin = time.perf_counter()
        yield turn
        seconds = time.perf_counter() - begin
        if turn.prefilled == 0:
            self._quiet = _average(self._quiet, seconds)
        else:
            quiet = (self._quiet or 0.0) if decoding else 0.0
            cost = max(seconds - quiet, 0.0) / turn.prefilled
            self._per_token = _average(self._per_token, cost)


def _average(old: float | None, new: float) -> float:
    return new if old is None else (1 - NEWEST) * old + NEWEST * new
