"""A sub-batch: rows of similar length that share one forward pass per step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import mlx.core as mx

from budmlx.core.model import Model
from budmlx.core.row import Row
from budmlx.core.sampling import RowSampling


class Group:
    """Rows, their caches and the tokens they feed next.

    A group of one keeps mlx-lm's single-row cache, which needs no mask; the caches are
    merged when a second row joins. `feed` holds the next input token of each row: for a
    row that has just joined the last prompt token, otherwise a token that is still being
    computed and has not been read.
    """

    def __init__(self, model: Model, row: Row):
        assert row.cache is not None
        self._model = model
        self.rows = [row]
        self._caches = row.cache
        self._merged = False
        self._feed = mx.array([row.ids[-1]], dtype=mx.uint32)
        self._pending: mx.array | None = None
        self._sampling: RowSampling | None = None
        row.cache = None

    @property
    def lengths(self) -> list[int]:
        """Tokens that each row's cache holds after the step in flight."""
        return [len(row.ids) + 1 for row in self.rows]

    @property
    def solo(self) -> bool:
        """Whether nobody may join."""
        return any(row.solo for row in self.rows)

    @property
    def empty(self) -> bool:
        """Whether a cache still has no content; such groups are not merged."""
        return any(entry.empty() for entry in self._caches)

    def absorb(self, other: Group) -> None:
        """Take over all rows of `other`; both must be between steps."""
        mine, theirs = self._as_batch(), other._as_batch()
        for entry, addition in zip(mine, theirs, strict=True):
            entry.extend(addition)
        self._caches, self._merged = mine, True
        self.rows.extend(other.rows)
        self._feed = mx.concatenate([self._feed, other._feed])
        self._sampling = None

    def _as_batch(self) -> list[Any]:
        if self._merged:
            return self._caches
        return [entry.merge([entry]) for entry in self._caches]

    def keep(self, rows: Iterable[Row]) -> None:
        """Drop all rows but these."""
        wanted = set(map(id, rows))
        indices = [i for i, row in enumerate(self.rows) if id(row) in wanted]
        if len(indices) == len(self.rows):
            return
        self.rows = [self.rows[i] for i in indices]
        self._sampling = None
        if indices:
            selected = mx.array(indices)
            self._feed = self._feed[selected]
            for entry in self._caches:
                entry.filter(selected)

    def dispatch(self) -> None:
        """Start the next step: forward pass and sampling, without waiting for either.

        Rows whose token in flight is their last take part only if others go on: dropping
        them first would mean to wait for that token.
        """
        self._pending = self._feed
        if all(row.last_step for row in self.rows):
            return
        if self._sampling is None:
            self._sampling = RowSampling([row.request for row in self.rows])
        logits = self._model(self._feed[:, None], self._caches)[:, -1, :]
        self._feed = self._sampling.sample(logits, [row.sampled for row in self.rows])
        mx.async_eval(self._feed)

    def collect(self) -> Iterator[tuple[Row, int]]:
        """Wait for the tokens that the step before this one sampled, and yield them.

        A row that joined just before the step yields nothing. Rows' counters move on.
        """
        assert self._pending is not None
        tokens: list[int] = self._pending.tolist()
        self._pending = None
        for row, token in zip(self.rows, tokens, strict=True):
            fresh = row.sampled > row.produced
            row.sampled += 1
            if fresh:
                row.ids.append(token)
                yield row, token
