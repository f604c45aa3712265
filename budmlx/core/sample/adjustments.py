"""What changes logits before anything is drawn: bias, penalties, stops that come too early."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import mlx.core as mx

from budmlx.core.row import Row
from budmlx.core.sample.penalties import Penalties, is_penalised


class Adjustment(Protocol):
    """One kind of change, for the rows of a group that asked for it."""

    def apply(self, logits: mx.array, feed: mx.array) -> mx.array:
        """New float32 logits [rows, vocab]. feed: the token ids [rows] that led to them."""

    def release(self) -> None:
        """Give the rows what is kept for them, before rows come or go."""


def adjustments(rows: Sequence[Row], vocab: int) -> list[Adjustment]:
    """The changes that these rows need, in mlx-lm's order; empty when nobody asked."""
    wanted: list[Adjustment] = []
    if any(row.request.bias_ids for row in rows):
        wanted.append(Bias(rows))
    penalised = [i for i, row in enumerate(rows) if is_penalised(row)]
    if penalised:
        wanted.append(Penalties(rows, penalised, vocab))
    if any(row.position < row.request.min_tokens for row in rows):
        wanted.append(EarlyStops(rows))
    return wanted


class Bias:
    """Adds the given values to the logits of the given ids."""

    def __init__(self, rows: Sequence[Row]):
        self._rows = mx.array([i for i, row in enumerate(rows) for _ in row.request.bias_ids])
        self._ids = mx.array([token for row in rows for token in row.request.bias_ids])
        self._values = mx.array([value for row in rows for value in row.request.bias_values])

    def apply(self, logits: mx.array, feed: mx.array) -> mx.array:
        """See `Adjustment`."""
        return logits.at[self._rows, self._ids].add(self._values)

    def release(self) -> None:
        """Nothing is kept."""


class EarlyStops:
    """Bans the stop ids of rows that have not reached their min_tokens."""

    def __init__(self, rows: Sequence[Row]):
        self._rows = rows

    def apply(self, logits: mx.array, feed: mx.array) -> mx.array:
        """See `Adjustment`."""
        banned = [
            (i, token)
            for i, row in enumerate(self._rows)
            if row.position < row.request.min_tokens
            for token in row.request.stop_ids
        ]
        if not banned:
            return logits
        indices = mx.array(banned)
        return logits.at[indices[:, 0], indices[:, 1]].add(-mx.inf)

    def release(self) -> None:
        """Nothing is kept."""
