"""Sampling: one vectorised call for all rows of a group, each with its own parameters.

A feature that no row uses costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from budmlx.core.row import Row, RowFault
from budmlx.core.sample.adjustments import Adjustment, Bias, EarlyStops
from budmlx.core.sample.candidates import most_likely
from budmlx.core.sample.draw import Draws, random_keys
from budmlx.core.sample.grammar import Constraints
from budmlx.core.sample.numeric import LOG2_E, exp2, row_max
from budmlx.core.sample.penalties import Penalties
from budmlx.core.sample.plugins import Spoilt, blaming, plugin_sampling
from budmlx.core.sample.reasoning import Closings
from budmlx.protocol import MOST_DRAFTED, GenerateRequest


class Outcome(NamedTuple):
    """What was drawn for one row, on the host."""

    token: int
    finite: bool
    logprob: float | None
    top: list[tuple[int, float]]
    spoilt: Spoilt | None = None


@dataclass(frozen=True, slots=True)
class Drawn:
    """What was drawn for all rows at k places each, still being computed.

    tokens: uint32 [rows, k]. finite: bool [rows, k], False where no token can be drawn.
    counts: how many alternatives each row wants to know, or None.
    faults: rows whose plugin or grammar failed, and why. states: what plugins keep.
    spoilt: by processors of plugins, in their order.
    logprobs: float32 [rows, k]; top_ids, top_logprobs: [rows, k, count]; None if nobody asked.
    """

    tokens: mx.array
    finite: mx.array
    counts: Sequence[int | None]
    faults: Mapping[Row, RowFault]
    states: Sequence[mx.array]
    spoilt: Sequence[Spoilt]
    logprobs: mx.array | None = None
    top_ids: mx.array | None = None
    top_logprobs: mx.array | None = None

    @property
    def arrays(self) -> list[mx.array]:
        """Everything that must be evaluated."""
        extra = (self.logprobs, self.top_ids, self.top_logprobs)
        spoilt = (each.found for each in self.spoilt)
        seen = (x for x in extra if x is not None)
        return [self.tokens, self.finite, *self.states, *spoilt, *seen]

    def read(self) -> list[list[Outcome]]:
        """Wait for the results: of every row, those of its places."""
        outcomes = self._outcomes()
        for each in reversed(self.spoilt):
            for place, found in zip(each.places, each.found.tolist(), strict=True):
                if found:
                    outcomes[place] = [out._replace(spoilt=each) for out in outcomes[place]]
        return outcomes

    def _outcomes(self) -> list[list[Outcome]]:
        tokens, finite = self.tokens.tolist(), self.finite.tolist()
        if self.logprobs is None:
            return [
                [Outcome(token, ok, None, []) for token, ok in zip(*row, strict=True)]
                for row in zip(tokens, finite, strict=True)
            ]
        logprobs, tops = self.logprobs.tolist(), self._tops()
        return [
            [
                Outcome(token, ok, None if count is None else logprob, top[: count or 0])
                for token, ok, logprob, top in zip(*row, strict=True)
            ]
            for count, *row in zip(self.counts, tokens, finite, logprobs, tops, strict=True)
        ]

    def _tops(self) -> list[list[list[tuple[int, float]]]]:
        """The most likely ids and their logprobs, best first, of every row and place."""
        if self.top_ids is None or self.top_logprobs is None:
            rows, places = self.tokens.shape
            return [[[] for _ in range(places)] for _ in range(rows)]
        values, ids = np.array(self.top_logprobs), np.array(self.top_ids)
        order = np.argsort(-values, axis=-1, kind="stable")
        ids = np.take_along_axis(ids, order, axis=-1)
        values = np.take_along_axis(values, order, axis=-1)
        return [
            [list(zip(*place, strict=True)) for place in zip(*row, strict=True)]
            for row in zip(ids.tolist(), values.tolist(), strict=True)
        ]


class RowSampling:
    """The sampling parameters of a group's rows, as arrays; rebuilt when rows come or go.

    constrained: there are rows with grammars.
    """

    def __init__(self, rows: Sequence[Row], vocab: int):
        requests = [row.request for row in rows]
        params = [r.sampling for r in requests]
        chosen = [i for i, r in enumerate(requests) if r.sampler is not None]
        drawn = [
            i for i, r in enumerate(requests) if r.sampler is None and r.sampling.temperature > 0
        ]
        self._rows = list(rows)
        self._seeds = np.array([r.seed % 2**64 for r in requests], dtype=np.uint64)
        self._choices = np.array([r.choice for r in requests], dtype=np.uint64)
        self._greedy = len(drawn) < len(rows)
        self._draws = Draws(params, drawn) if drawn else None
        self._shown = Draws(params, chosen) if chosen else None
        self._adjustments = _adjustments(rows, vocab)
        self._counts = [p.logprobs for p in params]
        plugins = bool(chosen) or any(r.processors for r in requests)
        self._processors, self._samplers = plugin_sampling(rows, vocab) if plugins else ([], [])
        self._prepared = False
        self.constrained = any(row.grammar is not None for row in rows)
        self._constraints = Constraints(rows, vocab) if self.constrained else None
        budgets = any(row.meter is not None for row in rows)
        self._closings = Closings(rows) if budgets else None
        changes = (self._adjustments, self._processors, self._samplers, self._constraints)
        self._changes = any(changes)

    @property
    def waits(self) -> bool:
        """Whether the next tokens depend on those that were drawn and not read."""
        return self.constrained or (self._closings is not None and self._closings.waiting)

    def release(self) -> None:
        """Give the rows back what is kept for them, before rows come or go."""
        for adjustment in self._adjustments:
            adjustment.release()
        if self._prepared:
            for each in (*self._processors, *self._samplers):
                each.release()

    def take(self, counts: Sequence[int]) -> None:
        """Forget all places of the last step but the first `counts` of each row."""
        for adjustment in self._adjustments:
            adjustment.take(counts)

    def sample(
        self,
        raw: mx.array,
        fed: mx.array,
        unread: Mapping[Row, list[int]] | None = None,
        drafts: Sequence[Sequence[int]] = (),
    ) -> Drawn:
        """Draw a token for every row at each of k places, without waiting.

        raw: logits [rows, k, vocab]. fed: the token ids [rows, k] that led to them.
        unread: tokens that were drawn and are not in the rows' ids yet; needed if `waits`.
        drafts: the tokens of each row that are fed after the first. What is drawn at the first
        place is right for every row; after a draft it is so only for rows of which `follows` is
        false. `take` must be told then how many places count.
        """
        places = raw.shape[1]
        faults: dict[Row, RowFault] = {}
        drawn = [
            self._draw(raw[:, place], fed[:, place], place, unread or {}, faults, drafts)
            for place in range(places)
        ]
        extra = [x for each in (*self._processors, *self._samplers) for x in each.arrays]
        spoilt = [each.spoilt for each in self._processors if each.spoilt is not None]
        tokens, finite, *logprobs = (_side_by_side(arrays) for arrays in zip(*drawn, strict=True))
        return Drawn(tokens, finite, self._counts, faults, extra, spoilt, *logprobs)

    def _draw(
        self,
        raw: mx.array,
        feed: mx.array,
        place: int,
        unread: Mapping[Row, list[int]],
        faults: dict[Row, RowFault],
        drafts: Sequence[Sequence[int]],
    ) -> list[mx.array]:
        """Tokens [rows], whether they are finite, and logprobs, if anybody asked for them.

        raw: logits [rows, vocab] at one place. feed: the token ids [rows] that led to them.
        """
        logits = raw
        if self._changes:
            logits = self._adjusted(raw, feed, place, unread, faults, drafts)
        finite = mx.isfinite(row_max(logits))[:, 0]
        tokens = mx.argmax(logits, axis=-1) if self._greedy else None
        if self._draws is not None or self._shown is not None:
            positions = np.array([row.position + place for row in self._rows], dtype=np.uint64)
            keys = random_keys(self._seeds, self._choices, positions)
            logits = logits.astype(mx.float32)
            if self._draws is not None:
                tokens = self._draws.draw(logits, keys, tokens)
            if self._shown is not None and not place:
                assert tokens is not None
                allowed = self._shown.allowed(logits)
                tokens, finite = self._plugged_samples(allowed, feed, keys, tokens, finite, faults)
        assert tokens is not None
        if self._closings is not None:
            tokens, finite = self._closings.apply(tokens, finite, unread)
        return [tokens, finite, *self._logprobs(raw, tokens)]

    def _adjusted(
        self,
        raw: mx.array,
        feed: mx.array,
        place: int,
        unread: Mapping[Row, list[int]],
        faults: dict[Row, RowFault],
        drafts: Sequence[Sequence[int]],
    ) -> mx.array:
        """What is left of the model's logits after all that changes them.

        They are float32 before anything does: in half precision, what is written back into an
        array of all rows would lose digits that it keeps where a row is alone.
        """
        logits = raw.astype(mx.float32)
        for adjustment in self._adjustments:
            logits = adjustment.apply(logits, feed, place)
        if not place and (self._processors or self._samplers):
            self._prepare(faults)
            logits = self._process(logits, feed, faults)
        if self._constraints is not None:
            logits = self._constraints.apply(logits, unread, faults, drafts, place)
        return logits

    def _prepare(self, faults: dict[Row, RowFault]) -> None:
        if not self._prepared:
            self._prepared = True
            for each in (*self._processors, *self._samplers):
                with blaming(each, faults):
                    each.prepare(faults)

    def _process(self, logits: mx.array, feed: mx.array, faults: dict[Row, RowFault]) -> mx.array:
        for each in self._processors:
            if faults.keys() >= set(each.rows):
                continue
            with blaming(each, faults):
                changed = each.process(logits[each.indices], feed)
                # A new name for the array: `raw` must stay what the model said.
                logits = mx.array(logits)
                logits[each.indices] = changed
        return logits

    def _plugged_samples(
        self,
        allowed: mx.array,
        feed: mx.array,
        keys: mx.array,
        tokens: mx.array,
        finite: mx.array,
        faults: dict[Row, RowFault],
    ) -> tuple[mx.array, mx.array]:
        for each in self._samplers:
            if faults.keys() >= set(each.rows):
                continue
            with blaming(each, faults):
                ids = each.sample(allowed[each.indices], feed, keys[each.indices])
                tokens, finite = mx.array(tokens), mx.array(finite)
                # An id outside the vocabulary would crash the process at the next step.
                inside = (ids >= 0) & (ids < allowed.shape[-1])
                tokens[each.indices] = mx.where(inside, ids, 0).astype(tokens.dtype)
                finite[each.indices] = finite[each.indices] & inside
        return tokens, finite

    def _logprobs(self, raw: mx.array, tokens: mx.array) -> list[mx.array]:
        """Logprobs of the tokens and of the most likely ones, of the model's distribution."""
        counts = [count for count in self._counts if count is not None]
        if not counts:
            return []
        raw = raw.astype(mx.float32)
        largest = row_max(raw)
        total = exp2((raw - largest) * LOG2_E).sum(axis=-1, keepdims=True)
        normalizer = largest + mx.log(total)
        chosen = (mx.take_along_axis(raw, tokens[:, None], axis=-1) - normalizer)[:, 0]
        most = min(max(counts), raw.shape[-1])
        if most == 0:
            return [chosen]
        ids, values = most_likely(raw, most)
        return [chosen, ids, values - normalizer]


def _adjustments(rows: Sequence[Row], vocab: int) -> list[Adjustment]:
    """The changes that these rows need, in mlx-lm's order; empty when nobody asked."""
    wanted: list[Adjustment] = []
    if any(row.request.sampling.logit_bias for row in rows):
        wanted.append(Bias(rows))
    penalised = [i for i, row in enumerate(rows) if _is_penalised(row.request)]
    if penalised:
        wanted.append(Penalties(rows, penalised, vocab))
    if any(row.position < row.request.min_tokens for row in rows):
        wanted.append(EarlyStops(rows))
    return wanted


def _is_penalised(request: GenerateRequest) -> bool:
    p = request.sampling
    return bool(p.frequency_penalty or p.presence_penalty) or p.repetition_penalty != 1


def follows(request: GenerateRequest) -> bool:
    """Whether what a row draws after a draft cannot be known while the draft is checked.

    What plugins and budgets of reasoning do depends on tokens that were read.
    """
    window = request.sampling.repetition_window
    short = _is_penalised(request) and 0 < window <= MOST_DRAFTED + 1
    return bool(short or request.reasoning or request.sampler or request.processors)


def _side_by_side(arrays: Sequence[mx.array]) -> mx.array:
    """Arrays [rows, ...], one for each of k places, as [rows, k, ...]."""
    return arrays[0][:, None] if len(arrays) == 1 else mx.stack(list(arrays), axis=1)
