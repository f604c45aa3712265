"""Frequency, presence and repetition penalties, with counts of tokens on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from budmlx.core.row import Row

# Where a row keeps its counts, among the states of plugins, whose slots begin at 0.
SLOT = -1


def _subtracts(row: Row) -> bool:
    return bool(row.request.sampling.frequency_penalty or row.request.sampling.presence_penalty)


def _divides(row: Row) -> bool:
    return row.request.sampling.repetition_penalty != 1


@dataclass(frozen=True, slots=True)
class _Counts:
    """What a row keeps while it changes its company.

    counts: float32 [2, vocab], of the generated tokens and of those in the repetition window.
    length: how many of the row's tokens they take into account.
    """

    counts: mx.array
    length: int


class Penalties:
    """Frequency and presence penalties on generated tokens, repetition penalty on all.

    Frequency and presence subtract, as the chat-completions protocol defines them;
    repetition divides positive and multiplies negative logits (Keskar et al., "CTRL", 2019).
    Counts live on the device, float32 [2, penalised rows, vocab]: of the generated tokens and
    of those in the window of repetition. Every step adds the token it is fed, which the host
    has not read yet, and takes out what leaves the window.
    """

    def __init__(self, rows: Sequence[Row], indices: Sequence[int], vocab: int):
        self._rows = [rows[i] for i in indices]
        self._all = len(indices) == len(rows)
        self._indices = mx.array(indices)
        params = [row.request.sampling for row in self._rows]
        self._frequency = _column([p.frequency_penalty for p in params])
        self._presence = _column([p.presence_penalty for p in params])
        self._repetition = _column([p.repetition_penalty for p in params])
        self._divides = any(map(_divides, self._rows))
        self._subtracts = any(map(_subtracts, self._rows))
        self._counts, self._lengths = _counted(self._rows, vocab)

    def apply(self, logits: mx.array, feed: mx.array, place: int) -> mx.array:
        """See `Adjustment`."""
        self._advance(feed if self._all else feed[self._indices])
        x = logits if self._all else logits[self._indices]
        generated, seen = self._counts[0], self._counts[1]
        if self._divides:
            scaled = mx.where(x < 0, x * self._repetition, x / self._repetition)
            x = mx.where(seen > 0, scaled, x)
        if self._subtracts:
            x = x - self._frequency * generated - self._presence * (generated > 0)
        if self._all:
            return x
        # A new name for the array: assigning to `logits` would change the caller's.
        adjusted = mx.array(logits)
        adjusted[self._indices] = x
        return adjusted

    def release(self) -> None:
        """See `Adjustment`."""
        for i, row in enumerate(self._rows):
            row.states[SLOT] = _Counts(self._counts[:, i], self._lengths[i])

    def _advance(self, feed: mx.array) -> None:
        """Count the tokens fed to this step and forget those that leave a window."""
        changes = []
        for i, row in enumerate(self._rows):
            length = len(row.ids) + row.unread
            entering = float(length > self._lengths[i])
            leaving = _leaving(row, length) if entering else None
            changes.append((entering, leaving))
            self._lengths[i] = length
        numbers = mx.arange(len(self._rows))
        weights = mx.array([entering for entering, _ in changes])
        self._counts = self._counts.at[:, numbers, feed].add(weights)
        if any(leaving is not None for _, leaving in changes):
            ids = mx.array([leaving or 0 for _, leaving in changes])
            weights = mx.array([0.0 if leaving is None else -1.0 for _, leaving in changes])
            self._counts = self._counts.at[1, numbers, ids].add(weights)


def _leaving(row: Row, length: int) -> int | None:
    """The token that a row's repetition window drops when its last token comes in."""
    window = row.request.sampling.repetition_window
    return row.ids[length - 1 - window] if _divides(row) and 0 < window < length else None


def _counted(rows: Sequence[Row], vocab: int) -> tuple[mx.array, list[int]]:
    """Counts [2, rows, vocab] of rows, and how many tokens of each they contain.

    Those that rows have kept are taken, if at most the token that is fed next is missing.
    """
    lengths, kept, fresh = [], [], []
    for i, row in enumerate(rows):
        length = len(row.ids) + row.unread
        state = row.states.pop(SLOT, None)
        if state is not None and length - 1 <= state.length <= length:
            lengths.append(state.length)
            kept.append((i, state.counts))
        else:
            lengths.append(len(row.ids))
            fresh.append((i, row))
    counts = mx.zeros((2, len(rows), vocab))
    if kept:
        places = mx.array([i for i, _ in kept])
        counts[:, places] = mx.stack([counts for _, counts in kept], axis=1)
    found = [(0, i, token) for i, row in fresh for token in row.generated()]
    found += [(1, i, token) for i, row in fresh for token in _window(row)]
    if found:
        which = mx.array(found)
        counts = counts.at[which[:, 0], which[:, 1], which[:, 2]].add(1.0)
    return counts, lengths


def _window(row: Row) -> list[int]:
    return row.ids[-row.request.sampling.repetition_window :] if _divides(row) else []


def _column(values: Sequence[float]) -> mx.array:
    return mx.array(values, dtype=mx.float32)[:, None]
