"""Adjustments: what changes logits before anything is drawn, such as bias and penalties."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import mlx.core as mx
import numpy as np

from budmlx.core.row import Row
from budmlx.types import MAX_BIAS


class Adjustment(Protocol):
    """One kind of change, for the rows of a group that asked for it."""

    def apply(self, logits: mx.array, feed: mx.array, place: int) -> mx.array:
        """New logits [rows, vocab]. feed: the token ids [rows] that led to them.

        place: of the tokens drawn from them, counted from each row's position.
        """


class Bias:
    """Adds the given values to the logits of the given ids; the lowest value bans its id."""

    def __init__(self, rows: Sequence[Row]):
        biases = [row.request.sampling.logit_bias for row in rows]
        self._rows = mx.array([i for i, bias in enumerate(biases) for _ in bias])
        self._ids = mx.array([token for bias in biases for token, _ in bias])
        values = [value for bias in biases for _, value in bias]
        self._values = mx.array([-math.inf if v <= -MAX_BIAS else v for v in values])

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
        params = [row.request.sampling for row in self._rows]
        self._frequency = _column([p.frequency_penalty for p in params])
        self._presence = _column([p.presence_penalty for p in params])
        self._repetition = _column([p.repetition_penalty for p in params])
        self._subtracts = any(p.frequency_penalty or p.presence_penalty for p in params)
        self._divides = any(p.repetition_penalty != 1 for p in params)
        generated = [row.generated() for row in self._rows]
        self._generated = _counts(generated, vocab) if self._subtracts else None
        windows = [row.ids[-row.request.sampling.repetition_window :] for row in self._rows]
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
    window = row.request.sampling.repetition_window
    return row.ids[-window] if 0 < window <= len(row.ids) else None


def _column(values: Sequence[float]) -> mx.array:
    return mx.array(values, dtype=mx.float32)[:, None]


def _counts(ids: Sequence[Sequence[int]], vocab: int) -> mx.array:
    counts = [np.bincount(np.array(row, dtype=np.int64), minlength=vocab) for row in ids]
    return mx.array(np.stack(counts).astype(np.float32))
