"""Drafted: what is fed to a step with drafts, and how much of what it draws is taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from budmlx.core.batch.plan import DraftPass
from budmlx.core.row import Row
from budmlx.core.sample.sampling import Outcome, follows
from budmlx.core.speculate.drafts import Drafts


@dataclass(frozen=True, slots=True)
class Drafted:
    """The input of a step with drafts.

    At every place a row draws with the key of its position, from what the model says after the
    tokens before it. As long as those are the ones that the row has drawn, it draws what it would
    draw without drafts.

    fed: uint32 [rows, 1 + k]: the token that a row feeds anyway, its draft, and zeros.
    drafts: of each row; empty for rows that have none.
    """

    fed: np.ndarray
    drafts: Sequence[Sequence[int]]

    @classmethod
    def make(
        cls, rows: Sequence[Row], unread: Mapping[Row, list[int]], most: int
    ) -> Drafted | None:
        """Drafts of `most` tokens for every row that can have them; None if there are none.

        unread: tokens that were drawn and are not in the rows' ids yet.
        """
        drafts = [_draft(row, unread.get(row, []), most) for row in rows]
        longest = max(len(draft) for draft in drafts)
        if not longest:
            return None
        fed = np.zeros((len(rows), 1 + longest), dtype=np.uint32)
        for place, row, draft in zip(fed, rows, drafts, strict=True):
            place[0] = (unread.get(row) or row.ids)[-1]
            place[1 : 1 + len(draft)] = draft
        return cls(fed, drafts)

    def taken(self, drawn: Sequence[list[Outcome]]) -> list[list[Outcome]]:
        """What is taken of each row's draws: those that were drafted, and the one after them."""
        return [
            outcomes[: 1 + _right(draft, outcomes)]
            for draft, outcomes in zip(self.drafts, drawn, strict=True)
        ]

    def counted(self, taken: Sequence[list[Outcome]]) -> DraftPass:
        """The numbers of the step. taken: what `taken` returned."""
        drafted = sum(map(len, self.drafts))
        return DraftPass(self.fed.shape[1], drafted, sum(map(len, taken)) - len(taken))


def drafts_of(row: Row) -> Drafts | None:
    """The drafts of a row; None if what it draws depends on more than the logits at a place."""
    return None if follows(row.request) else Drafts(row.ids)


def _draft(row: Row, ahead: Sequence[int], most: int) -> Sequence[int]:
    if row.drafts is None or any(token in row.request.stop_ids for token in ahead):
        return ()
    # The token after the draft is drawn, too.
    return row.drafts.draft(min(most, row.request.max_tokens - row.position - 1), ahead)


def _right(draft: Sequence[int], drawn: Sequence[Outcome]) -> int:
    """How many of the drafted tokens were drawn, before the first that was not."""
    pairs = enumerate(zip(draft, drawn, strict=False))
    return next((n for n, (token, own) in pairs if token != own.token), len(draft))
