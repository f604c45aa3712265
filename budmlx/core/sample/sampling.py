"""One vectorised sampling call for all rows of a group, each with its own parameters.

A feature that no row uses costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from budmlx.core.plugin_calls import PluginFault, fault
from budmlx.core.row import Row, RowFault
from budmlx.core.sample.adjustments import adjustments
from budmlx.core.sample.candidates import most_likely
from budmlx.core.sample.draw import Draws
from budmlx.core.sample.grammar import Constraints
from budmlx.core.sample.noise import random_keys
from budmlx.core.sample.numeric import LOG2_E, exp2, row_max
from budmlx.core.sample.plugins import Plugged, plugged

NOTHING_DRAWN = (
    "No token can be drawn: the logits are not finite, or every token is banned. Check logit_bias."
)


@contextmanager
def _blaming(each: Plugged, faults: dict[Row, RowFault]) -> Iterator[None]:
    """Note what a plugin does wrong against the rows that chose it."""
    try:
        yield
    except PluginFault as error:
        faults.update(dict.fromkeys(each.rows, (error.code, str(error))))


def nothing_drawn(row: Row) -> RowFault:
    """Why a row ends for which there was no token to draw."""
    if (sampler := row.request.sampler) is not None:
        what = f"{sampler.name} drew no token of the vocabulary"
        return "plugin_error", str(fault(sampler.plugin, what))
    return "non_finite_logits", NOTHING_DRAWN


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was drawn for one row, on the host."""

    token: int
    finite: bool
    logprob: float | None
    top: list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Drawn:
    """What was drawn for all rows, still being computed.

    tokens: uint32 [rows]. finite: bool [rows], False where no token can be drawn.
    faults: rows whose plugin or grammar failed, and why. states: what plugins keep.
    logprobs: float32 [rows]; top_ids, top_logprobs: [rows, count]; None if nobody asked.
    """

    tokens: mx.array
    finite: mx.array
    counts: Sequence[int | None]
    faults: Mapping[Row, RowFault]
    states: Sequence[mx.array]
    logprobs: mx.array | None = None
    top_ids: mx.array | None = None
    top_logprobs: mx.array | None = None

    @property
    def arrays(self) -> list[mx.array]:
        """Everything that must be evaluated."""
        extra = (self.logprobs, self.top_ids, self.top_logprobs)
        return [self.tokens, self.finite, *self.states, *(x for x in extra if x is not None)]

    def read(self) -> list[Outcome]:
        """Wait for the results."""
        tokens, finite = self.tokens.tolist(), self.finite.tolist()
        if self.logprobs is None:
            return [Outcome(t, f, None, []) for t, f in zip(tokens, finite, strict=True)]
        logprobs = self.logprobs.tolist()
        tops: list[list[tuple[int, float]]] = [[] for _ in tokens]
        if self.top_ids is not None and self.top_logprobs is not None:
            values, ids = np.array(self.top_logprobs), np.array(self.top_ids)
            order = np.argsort(-values, axis=-1, kind="stable")
            for i, count in enumerate(self.counts):
                best = order[i, : count or 0]
                tops[i] = list(zip(ids[i, best].tolist(), values[i, best].tolist(), strict=True))
        return [
            Outcome(token, ok, None if count is None else logprob, top)
            for token, ok, count, logprob, top in zip(
                tokens, finite, self.counts, logprobs, tops, strict=True
            )
        ]


class RowSampling:
    """The sampling parameters of a group's rows, as arrays; rebuilt when rows come or go.

    constrained: there are rows with grammars.
    """

    def __init__(self, rows: Sequence[Row], vocab: int):
        requests = [row.request for row in rows]
        chosen = [i for i, r in enumerate(requests) if r.sampler is not None]
        drawn = [i for i, r in enumerate(requests) if r.sampler is None and r.temperature > 0]
        self._rows = list(rows)
        self._seeds = np.array([r.seed % 2**64 for r in requests], dtype=np.uint64)
        self._choices = np.array([r.choice for r in requests], dtype=np.uint64)
        self._greedy = len(drawn) < len(rows)
        self._draws = Draws(requests, drawn) if drawn else None
        self._shown = Draws(requests, chosen) if chosen else None
        self._adjustments = adjustments(rows, vocab)
        self._counts = [r.logprobs for r in requests]
        self._processors, self._samplers = plugged(rows)
        self._prepared = False
        self.constrained = any(row.grammar is not None for row in rows)
        self._constraints = Constraints(rows, vocab) if self.constrained else None
        changes = (self._adjustments, self._processors, self._samplers, self._constraints)
        self._changes = any(changes)

    def release(self) -> None:
        """Give the rows back what is kept for them, before rows come or go."""
        for adjustment in self._adjustments:
            adjustment.release()
        if self._prepared:
            for each in (*self._processors, *self._samplers):
                each.release()

    def sample(
        self, raw: mx.array, feed: mx.array, unread: Mapping[Row, int] | None = None
    ) -> Drawn:
        """Draw a token for every row, without waiting.

        raw: logits [rows, vocab]. feed: the token ids [rows] that led to them.
        unread: those of them that are not in the rows' ids yet; needed if `constrained`.
        """
        faults: dict[Row, RowFault] = {}
        logits = self._adjusted(raw, feed, unread or {}, faults)
        finite = mx.isfinite(row_max(logits))[:, 0]
        tokens = mx.argmax(logits, axis=-1) if self._greedy else None
        if self._draws is not None or self._shown is not None:
            positions = np.array([row.position for row in self._rows], dtype=np.uint64)
            keys = random_keys(self._seeds, self._choices, positions)
            logits = logits.astype(mx.float32)
            if self._draws is not None:
                tokens = self._draws.draw(logits, keys, tokens)
            if self._shown is not None:
                assert tokens is not None
                allowed = self._shown.allowed(logits)
                tokens, finite = self._plugged_samples(allowed, feed, keys, tokens, finite, faults)
        assert tokens is not None
        extra = [x for each in (*self._processors, *self._samplers) for x in each.arrays]
        logprobs = self._logprobs(raw, tokens)
        return Drawn(tokens, finite, self._counts, faults, extra, *logprobs)

    def _adjusted(
        self,
        raw: mx.array,
        feed: mx.array,
        unread: Mapping[Row, int],
        faults: dict[Row, RowFault],
    ) -> mx.array:
        """What is left of the model's logits after all that changes them.

        They are float32 before anything does: in half precision, what is written back into an
        array of all rows would lose digits that it keeps where a row is alone.
        """
        if not self._changes:
            return raw
        logits = raw.astype(mx.float32)
        for adjustment in self._adjustments:
            logits = adjustment.apply(logits, feed)
        if self._processors or self._samplers:
            self._prepare(faults)
            logits = self._process(logits, feed, faults)
        if self._constraints is not None:
            logits = self._constraints.apply(logits, unread, faults)
        return logits

    def _prepare(self, faults: dict[Row, RowFault]) -> None:
        if not self._prepared:
            self._prepared = True
            for each in (*self._processors, *self._samplers):
                with _blaming(each, faults):
                    each.prepare()

    def _process(self, logits: mx.array, feed: mx.array, faults: dict[Row, RowFault]) -> mx.array:
        for each in self._processors:
            if faults.keys() >= set(each.rows):
                continue
            with _blaming(each, faults):
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
            with _blaming(each, faults):
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
