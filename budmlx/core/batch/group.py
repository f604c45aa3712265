"""Group: rows of similar length that share one forward pass per step."""

from __future__ import annotations

import copy
import time
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import mlx.core as mx

from budmlx.core.batch.draft_rows import DraftRows
from budmlx.core.batch.drafting import NO_DRAFTS, Drafting, DraftPass
from budmlx.core.batch.prefill import Prompt, compute_together
from budmlx.core.batch.shared_sampling import Received, Sent
from budmlx.core.batch.slots import Slots
from budmlx.core.batch.states import GroupState
from budmlx.core.batch.verify import Drafted
from budmlx.core.model.memory import CACHE_STEP, scale
from budmlx.core.model.model import Model
from budmlx.core.reuse.interface import Reusing
from budmlx.core.row import Row, RowFault, adapters_of
from budmlx.core.sample.filters import features
from budmlx.core.sample.sampling import Drawn, Outcome, RowSampling

# Steps between evaluating what caches keep and no step needs. A layer without rotary embedding
# counts its tokens by adding to an array that nobody reads: unevaluated, it holds all sums before.
EVALUATE_EVERY = 64


class Group:
    """Rows, their caches and the tokens they feed next.

    caches: one entry per layer. A group of one keeps mlx-lm's single-row cache, which needs
    no mask; caches are merged when there are more. Rows are in the order of their slots.
    `_feed`, [rows, 1], holds the next input token of each row: for a row that has just joined
    the last prompt token, otherwise one that is still being computed.
    `_in_flight` holds tokens that steps drew and nobody has read, with the rows they were drawn
    for; None stands for rows that have left. Of a step with drafts nothing is in flight: what it
    drew says where the rows are.
    masking: seconds in the last step between tokens that were read and those that are drawn with
    masks made of them; 0 without grammars. passes: the last step, if it had drafts.
    """

    def __init__(self, model: Model, rows: list[Row], caches: list[Any]):
        self.rows = rows
        self._model = model
        self._slots = Slots(caches, len(rows), model.numbers.copy_steps)
        self._feed = mx.array([row.ids[-1:] for row in rows], dtype=mx.uint32)
        self._sampling: RowSampling | None = None
        self._features: frozenset[Hashable] | None = None
        self._adapters: list[str] | None = None
        self._in_flight: list[tuple[Drawn, Sequence[Row | None]]] = []
        self._due: list[tuple[Drawn, Sequence[Row | None]]] = []
        self._verified: list[tuple[Row, list[Outcome]]] = []
        self._steps = 0
        self._draft_rows: DraftRows | None = None
        if model.drafter is not None:
            self._draft_rows = DraftRows(model.drafter, model.numbers.copy_steps)
        self.masking = 0.0
        self.passes: list[DraftPass] = []

    @classmethod
    def of(cls, model: Model, reuse: Reusing, prompt: Prompt) -> list[Group]:
        """Groups for the rows of a finished prefill: one, unless the model cannot batch."""
        prompt.finish(reuse)
        count = len(prompt.rows)
        if count == 1:
            return [cls(model, prompt.rows, prompt.cache)]
        if model.info.batchable:
            return [cls(model, prompt.rows, [e.merge([e] * count) for e in prompt.cache])]
        return [cls(model, [row], copy.deepcopy(prompt.cache)) for row in prompt.rows]

    @classmethod
    def together(cls, model: Model, reuse: Reusing, prompts: Sequence[Prompt]) -> Group:
        """The rows of whole prompts, which are computed in one forward pass."""
        caches = compute_together(model, reuse, prompts)
        for prompt in prompts:
            prompt.finish(reuse)
        return cls(model, [row for prompt in prompts for row in prompt.rows], caches)

    @property
    def state(self) -> GroupState:
        """The group as the scheduler sees it."""
        slots = self._slots
        return GroupState([row.id for row in self.rows], slots.width, slots.span, slots.empty)

    @property
    def empty(self) -> bool:
        """Whether a cache still has no content."""
        return self._slots.empty

    def kind(self, drafting: Drafting = NO_DRAFTS) -> Hashable:
        """The kind of the next step, for `Activity.run`. drafting: see `dispatch`."""
        if self._features is None:
            own = {"adapters"} if adapters_of(self.rows) else set()
            self._features = features(self.rows) | own
        width, length = self._slots.width.bit_length(), scale(self.rows[0].held, CACHE_STEP)
        drafts = (drafting.most, drafting.model) if drafting.counts else ()
        return "decode", width, self._slots.vacant > 0, length, self._features, *drafts

    @property
    def _longest(self) -> int:
        return max(row.held for row in self.rows)

    def compact(self) -> None:
        """Give up vacant slots and needless padding."""
        self._slots.compact(self._longest)

    def absorb(self, other: Group, expected: int) -> None:
        """Add all rows of `other`, which then has none; both must be between steps.

        expected: further rows that may join soon.
        """
        self._resample()
        other._resample()
        order = self._slots.add(other._slots, expected)
        both = [*self.rows, *other.rows]
        self.rows = [both[index] for index in order]
        self._feed = mx.concatenate([self._feed, other._feed])[mx.array(order)]
        self._in_flight += other._in_flight
        if self._draft_rows is not None and other._draft_rows is not None:
            self._draft_rows.absorb(other._draft_rows)

    def cache_of(self, row: Row) -> list[Any]:
        """A row's own cache, one entry per layer, between steps. It may run ahead of `row.ids`."""
        return self._slots.row(self.rows.index(row), row.held)

    def keep(self, rows: Iterable[Row]) -> None:
        """Drop all rows but these."""
        wanted = set(rows)
        indices = [i for i, row in enumerate(self.rows) if row in wanted]
        if len(indices) == len(self.rows):
            return
        self._resample()
        self.rows = [self.rows[i] for i in indices]
        if self._draft_rows is not None:
            self._draft_rows.keep(wanted)
        # A row that is prefilled again may be back here before these are read.
        self._in_flight = [
            (drawn, [row if row in wanted else None for row in drawn_for])
            for drawn, drawn_for in self._in_flight
        ]
        if indices:
            self._feed = self._feed[mx.array(indices)]
            self._slots.keep(indices, [row.held for row in self.rows])

    def _resample(self) -> None:
        """Drop the sampling of the rows, which are about to change; it is built again."""
        self._features = self._adapters = None
        if self._sampling is not None:
            self._sampling.release()
            self._sampling = None

    def dispatch(self, expected: int, drafting: Drafting = NO_DRAFTS) -> Mapping[Row, RowFault]:
        """Start the next step: forward pass and sampling, without waiting for either.

        expected: rows that may join soon. A step with drafts waits for the tokens before it, and
        for its own. Rows whose token in flight is their last take part only if others continue:
        dropping them first would mean to wait for that token.
        Returns the rows whose plugin or grammar failed, and why; they must be dropped.
        """
        self._due, self._in_flight = self._in_flight, []
        self.masking, self.passes = 0.0, []
        if all(row.last_step for row in self.rows):
            return {}
        if self._sampling is None:
            self._sampling = self._new_sampling()
        self._slots.before_step(self._longest, expected)
        drafted: Drafted | None = None
        if drafting.counts and self._slots.takes_back:
            model = self._draft_rows if drafting.model else None
            drafted = Drafted.make(self.rows, self._unread(), drafting.counts, model)
        if drafted is not None:
            return self._verify(drafted)
        logits = self._forward(self._feed)
        unread: dict[Row, list[int]] = {}
        if self._sampling.waits:
            # The device works while the tokens before are read, and masks are made of them.
            mx.async_eval(logits)
            unread = self._unread()
        begin = time.perf_counter()
        drawn = self._sampling.sample(logits, self._feed, unread)
        if self._sampling.constrained:
            self.masking = time.perf_counter() - begin
        self._feed = drawn.tokens
        self._in_flight = [(drawn, self.rows)]
        self._slots.take([1] * len(self.rows), 1)
        for row in self.rows:
            row.advance()
        mx.async_eval(*drawn.arrays, *self._kept)
        return drawn.faults

    def _new_sampling(self) -> RowSampling:
        vocab, ranks = self._model.info.vocab_size, self._model.ranks
        if ranks is None:
            return RowSampling(self.rows, vocab)
        return (Received if ranks.rank else Sent)(self.rows, vocab, ranks)

    def _forward(self, fed: mx.array) -> mx.array:
        """Logits [rows, tokens, vocab] for token ids [rows, tokens]."""
        self._slots.open(fed.shape[1], [row.held for row in self.rows])
        if self._adapters is None:
            self._adapters = adapters_of(self.rows)
        tokens, adapters = self._slots.spread(fed), self._slots.placed(self._adapters)
        logits = self._model(tokens, self._slots.caches, adapters=adapters)
        self._steps += 1
        return self._slots.gather(logits)

    @property
    def _kept(self) -> list[mx.array]:
        """What is evaluated beside the step."""
        return self._slots.arrays if self._steps % EVALUATE_EVERY == 0 else []

    def _verify(self, drafted: Drafted) -> Mapping[Row, RowFault]:
        """A step with drafts: of every row are taken the draws up to the first that differs."""
        assert self._sampling is not None
        fed = mx.array(drafted.fed)
        logits = self._forward(fed)
        mx.async_eval(logits)
        begin = time.perf_counter()
        unread = self._unread() if self._sampling.waits else {}
        drawn = self._sampling.sample(logits, fed, unread, drafted.drafts)
        if self._sampling.constrained:
            self.masking = time.perf_counter() - begin
        mx.async_eval(*drawn.arrays, *self._kept)
        outcomes = drafted.taken(drawn.read())
        self.passes = [drafted.told(self.rows, outcomes)]
        counts = [len(each) for each in outcomes]
        self._sampling.take(counts)
        self._slots.take(counts, fed.shape[1])
        for row, taken in zip(self.rows, outcomes, strict=True):
            row.advance(len(taken))
        self._feed = mx.array([[taken[-1].token] for taken in outcomes], dtype=mx.uint32)
        self._verified = list(zip(self.rows, outcomes, strict=True))
        return drawn.faults

    def _unread(self) -> dict[Row, list[int]]:
        """Tokens that rows drew in the step that is due, by row."""
        here = set(self.rows)
        return {
            row: tokens
            for drawn, rows in self._due
            for row, tokens in zip(rows, drawn.tokens.tolist(), strict=True)
            if row in here
        }

    def pause(self) -> None:
        """Skip a step; the tokens of the last one are read all the same."""
        self._due, self._in_flight = self._in_flight, []

    def collect(self) -> Iterator[tuple[Row, list[Outcome]]]:
        """Wait for the tokens of the step before the last `dispatch`; yields them by row.

        Those of a step with drafts come at once, after the others.
        """
        due, self._due = self._due, []
        here = set(self.rows)
        for drawn, rows in due:
            for row, outcomes in zip(rows, drawn.read(), strict=True):
                if row in here:
                    yield row, outcomes
        verified, self._verified = self._verified, []
        yield from verified
