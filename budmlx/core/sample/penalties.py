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


@dataclass(frozen=True, slots=True)
class _Change:
    """What one place of a step changes. feed: uint32 [rows], the tokens that come in.

    entering: whether each does. leaving: the token that each row's window drops, if any.
    """

    feed: mx.array
    entering: Sequence[bool]
    leaving: Sequence[int | None]

    def only(self, rows: Sequence[bool]) -> _Change:
        """The same of some rows only."""
        entering = [a and b for a, b in zip(self.entering, rows, strict=True)]
        leaving = [a if b else None for a, b in zip(self.leaving, rows, strict=True)]
        return _Change(self.feed, entering, leaving)


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
        self._places = list(indices)
        self._indices = mx.array(indices)
        self._changes: list[_Change] = []
        params = [row.request.sampling for row in self._rows]
        self._frequency = _column([p.frequency_penalty for p in params])
        self._presence = _column([p.presence_penalty for p in params])
        self._repetition = _column([p.repetition_penalty for p in params])
        self._divides = any(map(_divides, self._rows))
        self._subtracts = any(map(_subtracts, self._rows))
        self._counts, self._lengths = _counted(self._rows, vocab)

    def apply(self, logits: mx.array, feed: mx.array, place: int) -> mx.array:
        """See `Adjustment`."""
        self._advance(feed if self._all else feed[self._indices], place)
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

    def take(self, counts: Sequence[int]) -> None:
        """See `Adjustment`."""
        kept = [counts[place] for place in self._places]
        for place, change in enumerate(self._changes):
            self._count(change.only([place >= count for count in kept]), -1.0)
        for i, count in enumerate(kept):
            self._lengths[i] -= len(self._changes) - count

    def release(self) -> None:
        """See `Adjustment`."""
        for i, row in enumerate(self._rows):
            row.states[SLOT] = _Counts(self._counts[:, i], self._lengths[i])

    def _advance(self, feed: mx.array, place: int) -> None:
        """Count the tokens fed to this step and forget those that leave a window."""
        entering, leaving = [], []
        for i, row in enumerate(self._rows):
            length = len(row.ids) + row.unread + place
            entering.append(length > self._lengths[i])
            leaving.append(_leaving(row, length) if entering[-1] else None)
            self._lengths[i] = length
        change = _Change(feed, entering, leaving)
        self._changes = [*self._changes, change] if place else [change]
        self._count(change, 1.0)

    def _count(self, change: _Change, sign: float) -> None:
        """Add a change to the counts, or take it back where `sign` is -1."""
        numbers = mx.arange(len(self._rows))
        if any(change.entering):
            weights = mx.array([sign * each for each in change.entering])
            self._counts = self._counts.at[:, numbers, change.feed].add(weights)
        if any(token is not None for token in change.leaving):
            ids = mx.array([token or 0 for token in change.leaving])
            weights = mx.array([0.0 if token is None else -sign for token in change.leaving])
            self._counts = self._counts.at[1, numbers, ids].add(weights)


def _leaving(row: Row, length: int) -> int | None:
    """The token that a row's repetition window drops when its last token comes in.

    A row with a window so short that a drafted token would leave it does not draft.
    """
    window = row.request.sampling.repetition_window
    known = 0 < window < length and length - 1 - window < len(row.ids)
    return row.ids[length - 1 - window] if _divides(row) and known else None


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
