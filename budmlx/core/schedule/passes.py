"""Prefill passes: which prompts the next forward pass computes, and how much of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from budmlx.core.batch.plan import Prefill
from budmlx.core.row import Row
from budmlx.core.schedule.pace import WHOLE

# Prompts that differ by so few tokens are alike even if one is many times longer.
SLACK = 16


@dataclass(eq=False, slots=True)
class PromptView:
    """A prompt of the executor; the fields are those of `PromptState`."""

    rows: list[Row]
    computed: int
    remaining: int
    checkpoint: int | None = None
    restoring: bool = False

    @property
    def length(self) -> int:
        """Tokens of the prompt, and of what was generated before a fault."""
        return len(self.rows[0].ids)

    @property
    def whole(self) -> bool:
        """Whether it may share its only forward pass. One token cannot be padded."""
        row = self.rows[0]
        special = row.request.images or row.request.session
        alone = len(self.rows) == 1 and not row.solo and not special
        return alone and not self.computed and self.checkpoint is None and self.remaining > 1


@dataclass(frozen=True, slots=True)
class PrefillPass:
    """Prompts that one forward pass computes.

    tokens: how many are computed of the only prompt, or, of several, padding included.
    """

    prompts: list[PromptView]
    tokens: int

    @property
    def rows(self) -> list[Row]:
        """The rows of the prompts."""
        return [row for prompt in self.prompts for row in prompt.rows]

    @property
    def prefill(self) -> Prefill:
        """The same for the executor."""
        ids = [prompt.rows[0].id for prompt in self.prompts]
        return Prefill(ids) if len(ids) > 1 else Prefill(ids, self.tokens)


class PassChoice:
    """Chooses passes. paddable: prompts of different length can share one. reuses: what a pass
    computes is stored for other prompts.
    """

    def __init__(self, *, paddable: bool, reuses: bool):
        self._paddable = paddable
        self._reuses = reuses

    def next(self, prompts: Sequence[PromptView], budget: int, *, oldest: bool) -> PrefillPass:
        """Several short prompts together, or one of any length; never more than to a checkpoint.

        budget: tokens, padding included, of the pass. What is left of a prompt goes at once if
        it is short. oldest: the first prompt goes now, else the one with the least to do.
        """
        first = prompts[0] if oldest else min(prompts, key=lambda prompt: prompt.remaining)
        batch = self._batch(first, prompts, budget)
        left = first.remaining
        if len(batch) > 1:
            return PrefillPass(batch, len(batch) * max(prompt.remaining for prompt in batch))
        most = left if left <= WHOLE else budget
        return PrefillPass(batch, min(left, most, first.checkpoint or left))

    def _batch(
        self, first: PromptView, prompts: Sequence[PromptView], budget: int
    ) -> list[PromptView]:
        batch = [first]
        if not (self._paddable and first.whole and first.remaining <= budget):
            return batch
        others = (prompt for prompt in prompts if prompt is not first and prompt.whole)
        longest = first.remaining
        for prompt in sorted(others, key=lambda prompt: prompt.remaining):
            longest = max(longest, prompt.remaining)
            # Padding is computed like tokens, so prompts of one pass must be alike.
            alike = _alike(first.remaining, prompt.remaining)
            if not alike or longest * (len(batch) + 1) > budget:
                break
            # Their caches are padded to the longest, what was reused included.
            if _alike(first.length, prompt.length) and not self._repeats(prompt, batch):
                batch.append(prompt)
        return batch

    def _repeats(self, prompt: PromptView, batch: Sequence[PromptView]) -> bool:
        """Whether one of the batch computes most of what this prompt can have from there."""
        if not self._reuses or prompt.remaining < 2 * SLACK:
            return False
        row = prompt.rows[0]
        most = prompt.length - 1 - prompt.remaining // 2
        others = (other.rows[0] for other in batch)
        return any(
            row.request.namespace == other.request.namespace
            and row.keys[:most] == other.keys[:most]
            for other in others
        )


def _alike(a: int, b: int) -> bool:
    return max(a, b) <= 2 * min(a, b) + SLACK
