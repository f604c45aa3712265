"""Adjustments: what changes logits before anything is drawn, such as bias and early stops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import mlx.core as mx

from budmlx.core.row import Row
from budmlx.types import MAX_BIAS

LAST_RESORT = -1e6
"""A ban where a grammar holds, which may allow nothing else: these tokens are drawn then, and in no
other case, since `exp` of it is 0 at any temperature."""


class Adjustment(Protocol):
    """One kind of change, for the rows of a group that asked for it."""

    def apply(self, logits: mx.array, feed: mx.array, place: int) -> mx.array:
        """New float32 logits [rows, vocab]. feed: the token ids [rows] that led to them.

        place: of the tokens drawn from them, counted from each row's position.
        """

    def take(self, counts: Sequence[int]) -> None:
        """Forget all places of the last step but the first `counts` of each row of the group."""

    def release(self) -> None:
        """Give the rows what is kept for them, before rows come or go."""


class Bias:
    """Adds the given values to the logits of the given ids; the lowest value bans its id."""

    def __init__(self, rows: Sequence[Row]):
        biases = [
            (number, token, value if value > -MAX_BIAS else _ban(row))
            for number, row in enumerate(rows)
            for token, value in row.request.sampling.logit_bias
        ]
        numbers, ids, values = zip(*biases, strict=True)
        self._rows, self._ids, self._values = mx.array(numbers), mx.array(ids), mx.array(values)

    def apply(self, logits: mx.array, feed: mx.array, place: int) -> mx.array:
        """See `Adjustment`."""
        return logits.at[self._rows, self._ids].add(self._values)

    def take(self, counts: Sequence[int]) -> None:
        """Nothing is remembered."""

    def release(self) -> None:
        """Nothing is kept."""


def _ban(row: Row) -> float:
    return -math.inf if row.request.grammar is None else LAST_RESORT


class EarlyStops:
    """Bans the stop ids of rows that have not reached their min_tokens."""

    def __init__(self, rows: Sequence[Row]):
        self._rows = rows

    def apply(self, logits: mx.array, feed: mx.array, place: int) -> mx.array:
        """See `Adjustment`."""
        banned = [
            (i, token)
            for i, row in enumerate(self._rows)
            if row.position + place < row.request.min_tokens
            for token in row.request.stop_ids
        ]
        if not banned:
            return logits
        indices = mx.array(banned)
        return logits.at[indices[:, 0], indices[:, 1]].add(-mx.inf)

    def take(self, counts: Sequence[int]) -> None:
        """Nothing is remembered."""

    def release(self) -> None:
        """Nothing is kept."""
