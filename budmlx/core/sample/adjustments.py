"""Adjustments: what changes logits before anything is drawn, such as bias and penalties."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import mlx.core as mx
import numpy as np

from budmlx.core.row import Row


class Adjustment(Protocol):
    """One kind of change, for the rows of a group that asked for it."""

    def apply(self, logits: mx.array, feed: mx.array, place: int) -> mx.array:
        """New logits [rows, vocab]. feed: the token ids [rows] that led to them.

        place: of the tokens drawn from them, counted from each row's position.
        """


def adjustments(rows: Sequence[Row], vocab: int) -> list[Adjustment]:
    """The changes that these rows need, in mlx-lm's order; empty when nobody asked."""
    wanted: list[Adjustment] = []
    if any(row.request.bias_ids for row in rows):
        wanted.append(Bias(rows))
    penalised = [i for i, row in enumerate(rows) if _is_penalised(row)]
    if penalised:
        wanted.append(Penalties(rows, penalised, vocab))
    if any(row.position < row.request.min_tokens for row in rows):
        wanted.append(EarlyStops(rows))
    return wanted


def _is_penalised(row: Row) -> bool:
    r = row.request
    return bool(r.frequency_penalty or r.presence_penalty) or r.repetition_penalty != 1


class Bias:
    """Adds the given values to the logits of the given ids."""

    def __init__(self, rows: Sequence[Row]):
        self._rows = mx.array([i for i, row in enumerate(rows) for _ in row.request.bias_ids])
        self._ids = mx.array([token for row in rows for token in row.request.bias_ids])
        self._values = mx.array([value for row in rows for value in row.request.bias_values])

    def apply(self, logits: mx.array, feed: mx.array, place: int) -> mx.array:
        """See `Adjustment`."""
        return logits.at[self._rows, self._ids].add(self._values)


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


class Penalties:
    """Frequency and presence penalties on generated tokens, repetition penalty on all.

    Frequency and presence subtract, as the chat-completions protocol defines them;
    repetition divides positive and multiplies negative logits (Keskar et al., "CTRL", 2019).
    Counts live on the device, float32 [penalised rows, vocab]. Every step adds the token it
    is fed, which the host has not read yet, and takes out what leaves the row's window.
    """

    def __init__(self, rows: Sequence[Row], indices: Sequence[int], vocab: int):
        self._rows = [rows[i] for i in indices]
        self._all = len(indices) == len(rows)
        self._indices = mx.array(indices)
        requests = [row.request for row in self._rows]
        self._frequency = _column([r.frequency_penalty for r in requests])
        self._presence = _column([r.presence_penalty for r in requests])
        self._repetition = _column([r.repetition_penalty for r in requests])
        self._subtracts = any(r.frequency_penalty or r.presence_penalty for r in requests)
        self._divides = any(r.repetition_penalty != 1 for r in requests)
        generated = [row.generated() for row in self._rows]
        self._generated = _counts(generated, vocab) if self._subtracts else None
        windows = [row.ids[-row.request.repetition_window :] for row in self._rows]
        self._seen = _counts(windows, vocab) if self._divides else None

    def apply(self, logits: mx.array, feed: mx.array, place: int) -> mx.array:
        """See `Adjustment`."""
        self._advance(feed if self._all else feed[self._indices])
        x = logits if self._all else logits[self._indices]
        if self._seen is not None:
            scaled = mx.where(x < 0, x * self._repetition, x / self._repetition)
            x = mx.where(self._seen > 0, scaled, x)
        if self._generated is not None:
            present = self._generated > 0
            x = x - self._frequency * self._generated - self._presence * present
        if self._all:
            return x
        # A new name for the array: assigning to `logits` would change the caller's.
        adjusted = mx.array(logits)
        adjusted[self._indices] = x
        return adjusted

    def _advance(self, feed: mx.array) -> None:
        """Count the tokens fed to this step and forget those that leave a window."""
        fresh = [float(row.unread > 0) for row in self._rows]
        entering, numbers = mx.array(fresh), mx.arange(len(self._rows))
        if self._generated is not None:
            self._generated = self._generated.at[numbers, feed].add(entering)
        if self._seen is not None:
            self._seen = self._seen.at[numbers, feed].add(entering)
            leaving = [
                _leaving(row) if new else None for row, new in zip(self._rows, fresh, strict=True)
            ]
            if any(token is not None for token in leaving):
                ids = mx.array([token or 0 for token in leaving])
                weights = mx.array([0.0 if token is None else -1.0 for token in leaving])
                self._seen = self._seen.at[numbers, ids].add(weights)


def _leaving(row: Row) -> int | None:
    """The token that a row's repetition window drops when one more comes in."""
    window = row.request.repetition_window
    return row.ids[-window] if 0 < window <= len(row.ids) else None


def _column(values: Sequence[float]) -> mx.array:
    return mx.array(values, dtype=mx.float32)[:, None]


def _counts(ids: Sequence[Sequence[int]], vocab: int) -> mx.array:
    counts = [np.bincount(np.array(row, dtype=np.int64), minlength=vocab) for row in ids]
    return mx.array(np.stack(counts).astype(np.float32))
