"""How many prompt tokens a turn may compute, so that running rows keep streaming."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# Prefill may lengthen a turn by this share of a quiet one, or, where many wait, by more: rows
# that wait for their prompt count so many times against those that decode, since small passes
# waste most of their time on reading the weights ...
SLOWDOWN = 1.2
CROWD = 4.0
# ... but by no more than this.
LARGEST_SLOWDOWN = 8.0
# Weight of the newest measurement in the moving averages.
NEWEST = 0.2
SMALLEST_CHUNK = 8
# What is left of a prompt is computed at once if it is no longer than this: every pass reads
# the weights, and a newcomer with a short prompt should join in one turn.
WHOLE = 64


@dataclass(slots=True)
class Turn:
    """One measured turn; `prefilled` is set by its end."""

    prefilled: int = 0


class Pace:
    """Learns what decoding and prefilling cost from the turns themselves.

    A forward pass has a fixed cost beside that of its tokens, and both grow with the prompt,
    so the cost of a token is that of the last passes: their size settles where it should be.

    chunk: most prompt tokens of any turn. clock: monotonic time in seconds.
    """

    def __init__(self, chunk: int, clock: Callable[[], float] = time.perf_counter):
        self._chunk = chunk
        self._clock = clock
        self._quiet: float | None = None
        self._prefill_seconds = 0.0
        self._prefill_tokens = 0.0
        self._per_token: float | None = None

    @property
    def per_token(self) -> float | None:
        """Seconds that a prompt token takes in passes of many; None before the first of them."""
        return self._per_token

    def budget(self, decoding: int, waiting: int) -> int:
        """Prompt tokens that this turn may compute.

        decoding: rows that generate. waiting: rows whose prompt is not computed yet.
        """
        if not decoding:
            return self._chunk
        if self._quiet is None or not self._prefill_tokens:
            return min(self._chunk, WHOLE)
        share = min(SLOWDOWN * max(1.0, CROWD * waiting / decoding), LARGEST_SLOWDOWN)
        per_token = max(self._prefill_seconds, 1e-9) / self._prefill_tokens
        affordable = int(share * self._quiet / per_token)
        return min(self._chunk, max(SMALLEST_CHUNK, affordable))

    @contextmanager
    def turn(self, *, decoding: bool) -> Iterator[Turn]:
        """Measure one turn. The device works asynchronously, so only whole turns tell."""
        turn = Turn()
        begin = self._clock()
        yield turn
        seconds = self._clock() - begin
        if turn.prefilled:
            quiet = (self._quiet or 0.0) if decoding else 0.0
            # Sums, not a mean of ratios: the last few tokens of a prompt cost a whole pass.
            self._prefill_seconds = _decayed(self._prefill_seconds, max(seconds - quiet, 0.0))
            self._prefill_tokens = _decayed(self._prefill_tokens, turn.prefilled)
            if turn.prefilled >= WHOLE:
                cost = max(seconds - quiet, 0.0) / turn.prefilled
                old = cost if self._per_token is None else self._per_token
                self._per_token = (1 - NEWEST) * old + NEWEST * cost
        elif decoding:
            old = seconds if self._quiet is None else self._quiet
            self._quiet = (1 - NEWEST) * old + NEWEST * seconds


def _decayed(total: float, new: float) -> float:
    return (1 - NEWEST) * total + new
