"""Sampling where several ranks compute the logits: one draws the tokens, and all get them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import mlx.core as mx

from budmlx.core.model.ranks import Ranks
from budmlx.core.row import Row
from budmlx.core.sample.sampling import Drawn, RowSampling


class _Shared(RowSampling):
    """Sampling of rows that all ranks have."""

    def __init__(self, rows: Sequence[Row], vocab: int, ranks: Ranks):
        super().__init__(rows, vocab)
        self._ranks = ranks


class Sent(_Shared):
    """Rank 0's: the tokens that it draws are those of all ranks."""

    def sample(
        self,
        raw: mx.array,
        fed: mx.array,
        unread: Mapping[Row, list[int]] | None = None,
        drafts: Sequence[Sequence[int]] = (),
    ) -> Drawn:
        """See `RowSampling.sample`."""
        drawn = super().sample(raw, fed, unread, drafts)
        return replace(drawn, tokens=self._ranks.shared(drawn.tokens))


class Received(_Shared):
    """Another rank's. Nothing is computed of the logits, so that devices need not agree on them.

    Rows come to it without what changes logits, and so it never waits.
    """

    def sample(
        self,
        raw: mx.array,
        fed: mx.array,
        unread: Mapping[Row, list[int]] | None = None,
        drafts: Sequence[Sequence[int]] = (),
    ) -> Drawn:
        """See `RowSampling.sample`: the tokens are those that rank 0 draws."""
        none = mx.zeros(raw.shape[:2], dtype=mx.uint32)
        # Every rank must come to the exchange of tokens after those of the forward pass.
        [tokens] = mx.depends([none], [raw])
        tokens = self._ranks.shared(tokens)
        counts = [None] * raw.shape[0]
        return Drawn(tokens, mx.ones(tokens.shape, dtype=mx.bool_), counts, {}, [], [])
