"""Prefill budget: the prompt tokens that a step may compute, so that running rows keep streaming;
the choice of the prompts that the next forward pass computes; and when background work takes part.

All is learned from the durations of plans: no clock is read here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from budmlx.core.batch.plan import Prefill
from budmlx.core.row import Row

# The share of the slowdown that was asked for that is planned with: steps vary.
MARGIN = 0.8
# Where several prompts wait, those after the first count this many times against the rows that
# decode: held back for these they would come in one by one and all decode in small batches.
CROWD = 16.0
# A pass takes no longer than this by the measured pace, so that newcomers, cancellations and
# whoever watches the core hear from it; and before anything was measured, so many tokens.
PASS_SECONDS = 1.0
FIRST_CHUNK = 512
# The part of the time of interactive rows that background work may take besides.
SHARE = 0.2
# After so many steps with background work there is one without, to know what that costs.
LONGEST_RUN = 16
# Weight of the newest measurement in the moving averages.
NEWEST = 0.2
# A pass may take long by accident, since a kernel is built or another program uses the device:
# it counts for at most this many times what was expected. It is never fast by accident: one that
# costs less than a part of what was expected, by this number, replaces what was known.
OUTLIER = 8.0
# Tokens of a pass whose time is no matter of chance.
CERTAIN = 32
# What is left of a prompt is computed at once if it is no longer than this: every pass reads
# the weights, and a newcomer with a short prompt should join in one step.
WHOLE = 64
# What a step has left of its budget begins a further pass only from this part of it on: every
# pass reads the weights.
LEAST_REST = 4
# Prompts that differ by this few tokens are alike even if one is many times longer.
SLACK = 16


class PrefillBudget:
    """The prompt tokens of a step, by what decoding and prefilling cost in the steps before.

    A forward pass has a fixed cost beside that of its tokens, and both grow with the prompt,
    so the cost of a token is that of the last passes, whose size converges.

    chunk: most prompt tokens of any step. least: fewest beside rows that decode.
    slowdown: how many times longer than a quiet step one beside a prompt may take.
    """

    def __init__(self, chunk: int, *, least: int = 1, slowdown: float = 3.0):
        self._chunk = chunk
        self._least = min(least, chunk)
        self._share = MARGIN * (slowdown - 1)
        self._quiet: dict[int, float] = {}  # seconds of a step, by the bits of its number of rows
        self._prefill_seconds = 0.0
        self._prefill_tokens = 0.0
        self._per_token: float | None = None

    @property
    def per_token(self) -> float | None:
        """Seconds that a prompt token takes in passes of many; None before the first of them."""
        return self._per_token

    def budget(self, decoding: int, waiting: int) -> int:
        """Prompt tokens that this step may compute.

        decoding: rows that generate. waiting: rows whose prompt is not computed yet.
        """
        if not decoding:
            least = min(self._chunk, WHOLE)
            return max(least, self._within(PASS_SECONDS, unknown=FIRST_CHUNK))
        if not self._quiet:
            return min(self._chunk, WHOLE)
        share = self._share * max(1.0, CROWD * (waiting - 1) / decoding)
        return self._within(min(share * self.quiet_step(decoding), PASS_SECONDS), unknown=WHOLE)

    def learn(self, seconds: float, *, prefilled: int, decoding: int) -> None:
        """Record one step. The device works asynchronously, so only whole steps can be timed.

        prefilled: prompt tokens. decoding: the number of rows that generated before it.
        """
        if prefilled:
            cost = max(seconds - self.quiet_step(decoding), 0.0)
            self._learn_cost(cost, prefilled)
        elif decoding:
            size = decoding.bit_length()
            self._quiet[size] = _averaged(self._quiet.get(size), seconds)

    def _within(self, seconds: float, *, unknown: int) -> int:
        if not self._prefill_tokens:
            return min(self._chunk, unknown)
        per_token = max(self._prefill_seconds, 1e-9) / self._prefill_tokens
        return min(self._chunk, max(self._least, int(seconds / per_token)))

    def knows(self, decoding: int) -> bool:
        """Whether a step of about so many rows was measured without prompts."""
        return decoding.bit_length() in self._quiet

    def quiet_step(self, decoding: int) -> float:
        """Seconds of a step of so many rows without prompts, or of the most similar number."""
        if not decoding or not self._quiet:
            return 0.0
        size = decoding.bit_length()
        return self._quiet[min(self._quiet, key=lambda known: abs(known - size))]

    def _learn_cost(self, cost: float, tokens: int) -> None:
        if self._prefill_tokens:
            expected = tokens * self._prefill_seconds / self._prefill_tokens
            cost = min(cost, OUTLIER * expected) if expected else cost
            if tokens >= CERTAIN and 0 < cost < expected / OUTLIER:
                self._prefill_seconds = self._prefill_tokens = 0.0
                self._per_token = None
        # Sums, not a mean of ratios: the last few tokens of a prompt cost a whole pass.
        self._prefill_seconds = _decayed(self._prefill_seconds, cost)
        self._prefill_tokens = _decayed(self._prefill_tokens, tokens)
        if tokens >= WHOLE:
            self._per_token = _averaged(self._per_token, cost / tokens)


class BackgroundShare:
    """Chooses the steps in which background work takes part beside interactive rows that decode.

    What such a step takes longer than one without it is paid in advance, from a share of the time
    of the steps of interactive rows: these are slowed down by no more than that, whatever the
    background work costs. Everything is measured by steps; no clock is read here.

    runs: background work takes part in this step.
    """

    def __init__(self, share: float = SHARE):
        self._share = share
        self._saved = 0.0
        self._price = 0.0  # seconds that a step with background work takes longer
        self._spent = 0.0  # the same of the last one, so far
        self._beside = False
        self.runs = False
        self._ran = False
        self._mixed = 0  # steps since the last one without background work

    def begin(self, *, beside: bool, ready: bool, work: bool) -> bool:
        """Begin a step; returns whether background work takes part.

        beside: there are interactive rows or texts at work. ready: they only decode, and what
        that costs is known. work: there is background work.
        """
        if not beside or not self._beside:
            self._saved, self._mixed = 0.0, 0
        affordable = self._saved >= self._price and self._mixed < LONGEST_RUN
        self._ran, self.runs = self.runs, work and (not beside or (ready and affordable))
        if self.runs and beside:
            self._price += NEWEST * (self._spent - self._price)
            self._spent = 0.0
        self._beside = beside
        return self.runs

    @property
    def mixed(self) -> bool:
        """Whether this step's time is that of both classes: the device ends the step before."""
        return self._beside and (self.runs or self._ran)

    def learn(self, seconds: float, quiet: float) -> None:
        """Record a step beside interactive rows that only decode.

        seconds: of the step. quiet: of one without background work.
        """
        if not self._beside:
            return
        longer = max(seconds - quiet, 0.0) if self.mixed else 0.0
        self._mixed = self._mixed + 1 if self.mixed else 0
        self._spent += longer
        # What is saved pays for one step, so that pauses of it are not made up for.
        most = max(self._price, self._share * quiet)
        self._saved = min(self._saved + self._share * quiet - longer, most)


def _decayed(total: float, new: float) -> float:
    return (1 - NEWEST) * total + new


def _averaged(old: float | None, new: float) -> float:
    return new if old is None else (1 - NEWEST) * old + NEWEST * new


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
    def background(self) -> bool:
        """Whether its rows are of the background."""
        return self.rows[0].background

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
    def ends(self) -> bool:
        """Whether no prompt of it has more to compute."""
        return len(self.prompts) > 1 or self.tokens == self.prompts[0].remaining

    @property
    def prefill(self) -> Prefill:
        """The same for the executor."""
        ids = [prompt.rows[0].id for prompt in self.prompts]
        return Prefill(ids) if len(ids) > 1 else Prefill(ids, self.tokens)


class PassChoice:
    """Chooses passes. paddable: prompts of different length can share one. reuses: what a pass
    computes is stored for other prompts. multiple: a pass that ends within a prompt computes a
    multiple of so many tokens.
    """

    def __init__(self, *, paddable: bool, reuses: bool, multiple: int):
        self._paddable = paddable
        self._reuses = reuses
        self._multiple = multiple

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
        whole = left <= max(WHOLE, budget)
        most = left if whole else (budget - budget % self._multiple or budget)
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
