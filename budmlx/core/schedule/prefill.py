"""Prefill budgets: the prompt tokens that a step may compute or read from disk, so that running
rows keep streaming; and the choice of the prompts that the next forward pass computes.

Budgets are learned from the durations of plans: no clock is read here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from budmlx.core.batch.plan import DiskRead, Prefill
from budmlx.core.row import Row

# Prefill may lengthen a step by this share of a quiet one, or, where many wait, by more: rows
# that wait for their prompt count this many times against those that decode, since small passes
# waste most of their time on reading the weights ...
SLOWDOWN = 1.2
CROWD = 4.0
# ... but by no more than this.
LARGEST_SLOWDOWN = 8.0
# Weight of the newest measurement in the moving averages.
NEWEST = 0.2
SMALLEST_CHUNK = 8
# What is left of a prompt is computed at once if it is no longer than this: every pass reads
# the weights, and a newcomer with a short prompt should join in one step.
WHOLE = 64
# Seconds of a step for reading from disk, while others generate and while nobody does.
SHORT_READ = 0.02
LONG_READ = 0.25
# Weight of the newest measurement of the disk.
NEWEST_READ = 0.3
# What a block that is computed because the disk was slow takes off the memory of that.
FORGIVENESS = 0.95
# Seconds of a step while nobody decodes: newcomers and signs of life wait for its end.
LONGEST_PASS = 1.5
# Prompts that differ by this few tokens are alike even if one is many times longer.
SLACK = 16


class PrefillBudget:
    """The prompt tokens of a step, by what decoding and prefilling cost in the steps before.

    A forward pass has a fixed cost beside that of its tokens, and both grow with the prompt,
    so the cost of a token is that of the last passes, whose size converges.

    chunk: most prompt tokens of any step. longest_pass: about the most seconds that a step takes
    while nobody decodes.
    """

    def __init__(self, chunk: int, longest_pass: float = math.inf):
        self._chunk = chunk
        self._longest_pass = longest_pass
        self._quiet: float | None = None
        self._prefill_seconds = 0.0
        self._prefill_tokens = 0.0
        self._per_token: float | None = None

    @property
    def per_token(self) -> float | None:
        """Seconds that a prompt token takes in passes of many; None before the first of them."""
        return self._per_token

    @property
    def quiet(self) -> float | None:
        """Seconds of a step without prompts; None before the first of them."""
        return self._quiet

    def budget(self, decoding: int, waiting: int) -> int:
        """Prompt tokens that this step may compute.

        decoding: rows that generate. waiting: rows whose prompt is not computed yet.
        """
        if not decoding:
            return self._alone
        if self._quiet is None or not self._prefill_tokens:
            return min(self._chunk, WHOLE)
        share = min(SLOWDOWN * max(1.0, CROWD * waiting / decoding), LARGEST_SLOWDOWN)
        per_token = max(self._prefill_seconds, 1e-9) / self._prefill_tokens
        affordable = int(share * self._quiet / per_token)
        return min(self._chunk, max(SMALLEST_CHUNK, affordable))

    @property
    def _alone(self) -> int:
        """Prompt tokens of a step while nobody decodes."""
        if self._per_token is None:
            return self._chunk
        # Of fewer tokens than `WHOLE` the cost is not measured.
        most = max(self._longest_pass / max(self._per_token, 1e-9), WHOLE)
        return int(min(self._chunk, most))

    def learn(self, seconds: float, *, prefilled: int, decoding: bool) -> None:
        """Record one step. The device works asynchronously, so only whole steps can be timed.

        prefilled: prompt tokens. decoding: there were rows that generated before it.
        """
        if prefilled:
            quiet = (self._quiet or 0.0) if decoding else 0.0
            # Sums, not a mean of ratios: the last few tokens of a prompt cost a whole pass.
            self._prefill_seconds = _decayed(self._prefill_seconds, max(seconds - quiet, 0.0))
            self._prefill_tokens = _decayed(self._prefill_tokens, prefilled)
            if prefilled >= WHOLE:
                cost = max(seconds - quiet, 0.0) / prefilled
                old = cost if self._per_token is None else self._per_token
                self._per_token = (1 - NEWEST) * old + NEWEST * cost
        elif decoding:
            old = seconds if self._quiet is None else self._quiet
            self._quiet = (1 - NEWEST) * old + NEWEST * seconds


class DiskReadBudget:
    """The tokens of KV that a step may read from disk, by what reading cost before.


    short_read, long_read: seconds that a step may spend on it while others generate, and while
    nobody does.
    """

    def __init__(self, short_read: float = SHORT_READ, long_read: float = LONG_READ):
        self._short = short_read
        self._long = long_read
        self._seconds = 0.0
        self._tokens = 0.0

    def allowance(self, *, alone: bool, per_token: float | None) -> int:
        """Tokens that this step may read; 0 where computing them is faster.

        alone: nobody generates. per_token: seconds that computing a token takes, if known.
        """
        if not self._tokens:
            return 1
        cost = self._seconds / self._tokens
        if per_token is not None and cost > per_token:
            return 0
        return max(1, int((self._long if alone else self._short) / max(cost, 1e-9)))

    def learn(self, disk: DiskRead) -> None:
        """Record what one plan read."""
        self._seconds *= FORGIVENESS**disk.declined
        if disk.tokens:
            # Sums, not a mean of ratios: a short block takes as long to open.
            self._seconds = (1 - NEWEST_READ) * self._seconds + disk.seconds
            self._tokens = (1 - NEWEST_READ) * self._tokens + disk.tokens


def _decayed(total: float, new: float) -> float:
    return (1 - NEWEST) * total + new


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
    def constrained(self) -> bool:
        """Whether its rows have a grammar."""
        return self.rows[0].grammar is not None

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

    def next(
        self, prompts: Sequence[PromptView], budget: int, *, oldest: bool, apart: bool = False
    ) -> PrefillPass:
        """Several short prompts together, or one of any length; never more than to a checkpoint.

        budget: tokens, padding included, of the pass. What is left of a prompt goes at once if
        it is short. oldest: the first prompt goes now, else the one with the least to do.
        apart: rows with grammars share no pass with others.
        """
        first = prompts[0] if oldest else min(prompts, key=lambda prompt: prompt.remaining)
        if apart:
            prompts = [each for each in prompts if each.constrained == first.constrained]
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
        """Whether one of the batch computes most of what this prompt could reuse from it."""
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
