"""Reasoning budgets: tokens that rows must write instead of those that were drawn for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import mlx.core as mx

from budmlx.core.row import Row


class Closings:
    """The tokens that close the reasoning of a group's rows.

    Until a budget may be used up nothing has to be known of a row's tokens, so that steps need
    not wait for each other.
    """

    def __init__(self, rows: Sequence[Row]):
        self._width = len(rows)
        self._rows = [(i, row, row.meter) for i, row in enumerate(rows) if row.meter is not None]

    @property
    def waiting(self) -> bool:
        """Whether the next tokens depend on those that were drawn and not read."""
        return any(row.unread and meter.must_follow(row.position) for _, row, meter in self._rows)

    def apply(
        self, tokens: mx.array, finite: mx.array, unread: Mapping[Row, list[int]]
    ) -> tuple[mx.array, mx.array]:
        """The tokens [rows] with those that are forced in their places, which are finite then.

        unread: tokens that were drawn and are not in the rows' ids yet; needed if `waiting`.
        """
        forced: dict[int, int] = {}
        for i, row, meter in self._rows:
            if meter.must_follow(row.position):
                known = meter.consumed - row.produced
                ahead = unread.get(row, [])[max(known, 0) :]
                meter.follow([*row.generated(meter.consumed), *ahead])
            token = meter.forced(row.position)
            if token is not None:
                forced[i] = token
        if not forced:
            return tokens, finite
        places = mx.array([i in forced for i in range(self._width)])
        ids = mx.array([forced.get(i, 0) for i in range(self._width)], dtype=tokens.dtype)
        return mx.where(places, ids, tokens), finite | places
