"""How many prompt tokens a turn may compute, so that running rows keep streaming."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# Prefill may lengthen a turn by this share of a quiet one, times the number of rows that
# wait for their prompt for each row that decodes ...
SLOWDOWN = 1.2
# ... but by no more than this.
LARGEST_SLOWDOWN = 8.0
# Weight of the newest measurement in the moving averages.
NEWEST = 0.2
SMALLEST_CHUNK = 8
FIRST_CHUNK = 64


@dataclass(slots=True)
class Turn:
    """One measured turn; `prefilled` is set by its end."""

    prefilled: int = 0


class Pace:
    """Learns what decoding and prefilling cost from the turns themselves.

    A forward pass has a fixed cost beside that of its tokens, and both grow with the prompt,
    so the cost of a token is that of the last passes: their size settles where it should be.

    chunk: most prompt tokens of any turn.
    """

    def __init__(self, chunk: int):
        self._chunk = chunk
        self._quiet: float | None = None
        self._per_token: float | None = None

    def budget(self, decoding: int, waiting: int) -> int:
        """Prompt tokens that this turn may compute.

        decoding: rows that generate. waiting: rows whose prompt is not computed yet.
        """
        if not decoding:
            return self._chunk
        if self._quiet is None or self._per_token is None:
            return min(self._chunk, FIRST_CHUNK)
        share = min(SLOWDOWN * max(1.0, waiting / decoding), LARGEST_SLOWDOWN)
        affordable = int(share * self._quiet / max(self._per_token, 1e-9))
        return min(self._chunk, max(SMALLEST_CHUNK, affordable))

    @contextmanager
    def turn(self, *, decoding: bool) -> Iterator[Turn]:
        """Measure one turn. The device works asynchronously, so only whole turns tell."""
        turn = Turn()
        begin = time.perf_counter()
        yield turn
        seconds = time.perf_counter() - begin
        if turn.prefilled:
            quiet = (self._quiet or 0.0) if decoding else 0.0
            cost = max(seconds - quiet, 0.0) / turn.prefilled
            self._per_token = _average(self._per_token, cost)
        elif decoding:
            self._quiet = _average(self._quiet, seconds)


def _average(old: float | None, new: float) -> float:
    return new if old is None else (1 - NEWEST) * old + NEWEST * new
