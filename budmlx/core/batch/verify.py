"""Drafted: what is fed to a step with drafts, and how much of what it draws is taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from msgspec.structs import replace

from budmlx.core.batch.draft_rows import DraftRows
from budmlx.core.batch.drafting import DraftPass
from budmlx.core.row import Row
from budmlx.core.sample.sampling import Outcome, follows
from budmlx.core.speculate.drafts import Drafts
from budmlx.core.speculate.transcripts import Transcripts
from budmlx.protocol import RowDraft
from budmlx.protocol.counts import Source, SourceCounts, plus


@dataclass(frozen=True, slots=True)
class Drafted:
    """The input of a step with drafts.

    At every place a row draws with the key of its position, from what the model says after the
    tokens before it. As long as those are the ones that the row has drawn, it draws what it would
    draw without drafts.

    fed: uint32 [rows, 1 + k]: the token that a row feeds anyway, its draft, and zeros.
    drafts: of each row; empty for rows that have none. sources: where they come from.
    model: what the draft model did, if it drafted.
    """

    fed: np.ndarray
    drafts: Sequence[Sequence[int]]
    sources: Sequence[Source]
    model: DraftRows | None

    @classmethod
    def make(
        cls,
        rows: Sequence[Row],
        unread: Mapping[Row, list[int]],
        counts: Mapping[int, int],
        model: DraftRows | None = None,
    ) -> Drafted | None:
        """The drafts of rows; None if there are none.

        counts: most tokens of each row that drafts, by its id.
        unread: tokens that were drawn and are not in the rows' ids yet. model: drafts for rows
        which it knows better than any text.
        """
        room = [_room(row, counts.get(row.id, 0)) for row in rows]
        drafts = [
            _draft(row, unread.get(row, []), most) for row, most in zip(rows, room, strict=True)
        ]
        sources: list[Source] = [row.drafts.source if row.drafts else "ngram" for row in rows]
        if model is not None and (wanting := _wanting(rows, drafts, room)):
            known = model.draft(list(wanting), unread, max(wanting.values()))
            for index, row in enumerate(rows):
                if row in known and row in wanting:
                    drafts[index] = _cut(row, known[row], unread.get(row, []), wanting[row])
                    sources[index] = "draft_model"
        else:
            model = None
        longest = max(len(draft) for draft in drafts)
        if not longest:
            return None
        fed = np.zeros((len(rows), 1 + longest), dtype=np.uint32)
        for place, row, draft in zip(fed, rows, drafts, strict=True):
            place[0] = (unread.get(row) or row.ids)[-1]
            place[1 : 1 + len(draft)] = draft
        return cls(fed, drafts, sources, model)

    def taken(self, drawn: Sequence[list[Outcome]]) -> list[list[Outcome]]:
        """What is taken of each row's draws: those that were drafted, and the one after them."""
        return [
            outcomes[: 1 + _right(draft, outcomes)]
            for draft, outcomes in zip(self.drafts, drawn, strict=True)
        ]

    def told(self, rows: Sequence[Row], taken: Sequence[list[Outcome]]) -> DraftPass:
        """The numbers of the step; rows that drafted will report theirs.

        taken: what `taken` returned.
        """
        each = zip(rows, self.drafts, self.sources, taken, strict=True)
        counts: dict[Source, SourceCounts] = {}
        for row, draft, source, outcomes in each:
            if draft:
                right = len(outcomes) - 1
                row.draft = RowDraft(len(draft), right, source)
                new = SourceCounts(1, len(draft), right)
                counts[source] = plus(counts.get(source, SourceCounts()), new)
                if source == "draft_model" and row.drafts is not None:
                    row.drafts.learn_model(right, len(draft))
        passes = DraftPass(self.fed.shape[1], counts)
        if (model := self.model) is None:
            return passes
        told = {"model": model.passes, "model_seconds": model.seconds, "behind": model.behind}
        return replace(passes, **told)


def drafts_of(row: Row, said: Transcripts) -> Drafts | None:
    """The drafts of a row; None if what it draws depends on more than the logits at a place.

    said: what rows before it said, and learnt.
    """
    asked = row.request
    if follows(asked):
        return None
    forced = None if row.grammar is None else partial(_forced, row)
    others = partial(said.of, asked.namespace)
    begun = bool(asked.emitted_ids)
    ahead, kept = asked.prediction, said.kept
    return Drafts(row.ids, ahead, begun=begun, forced=forced, others=others, kept=kept)


def _forced(row: Row) -> list[int]:
    """The tokens in which a row's grammar leaves no choice, after all that have been read."""
    grammar = row.grammar
    if grammar is None or grammar.consumed > row.produced:
        return []
    return grammar.forced(row.generated(grammar.consumed))


def _wanting(
    rows: Sequence[Row], drafts: Sequence[Sequence[int]], room: Sequence[int]
) -> dict[Row, int]:
    """The rows for which the draft model is to draft, each with its most tokens.

    drafts: what texts say of each. room: most tokens of each.
    """
    return {
        row: most
        for row, draft, most in zip(rows, drafts, room, strict=True)
        if row.drafts and most and (row.drafts.trusts_model or not draft)
    }


def _draft(row: Row, ahead: Sequence[int], most: int) -> Sequence[int]:
    if row.drafts is None or not most:
        return ()
    return _cut(row, row.drafts.draft(most, ahead), ahead, most)


def _cut(row: Row, draft: Sequence[int], ahead: Sequence[int], most: int) -> Sequence[int]:
    """As much of a draft as the row may say after tokens that have not been read yet."""
    stops = row.request.stop_ids
    if any(token in stops for token in ahead):
        return ()
    draft = draft[:most]
    return draft[: next((n for n, token in enumerate(draft) if token in stops), len(draft))]


def _room(row: Row, most: int) -> int:
    # The token after the draft is drawn, too.
    return max(0, min(most, row.request.max_tokens - row.position - 1))


def _right(draft: Sequence[int], drawn: Sequence[Outcome]) -> int:
    """How many of the drafted tokens were drawn, before the first that was not."""
    pairs = enumerate(zip(draft, drawn, strict=False))
    return next((n for n, (token, own) in pairs if token != own.token), len(draft))
