"""Filters: which tokens may be drawn by top_k, top_p, min_p and typical_p, each row with its own.

The filters look at the distribution before temperature, as mlx-lm's do. typical_p comes first;
the others keep a prefix of the tokens in descending order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from budmlx.types import SamplingParams

# On the CPU, top_p and top_k look among this many most likely tokens first, then among more.
CANDIDATES = 512
_EVERY = 2**31 - 1


def by_rank(params: SamplingParams) -> bool:
    """Whether a row's tokens must be put in order to know which of them may be drawn."""
    return params.top_p < 1 or params.top_k > 0


@dataclass(frozen=True, slots=True)
class Ranked:
    """The tokens that some rows may draw, the most likely one first.

    rows: which of the rows these are, None for all of them. ids: uint32 [rows, count].
    logits: float32 [rows, count], -inf for a token that must not be drawn.
    """

    rows: mx.array | None
    ids: mx.array
    logits: mx.array


class Filters:
    """The filter parameters of some rows, as arrays. A filter nobody uses costs nothing."""

    def __init__(self, params: Sequence[SamplingParams]):
        self._params = params
        top_p = np.array([p.top_p for p in params], dtype=np.float32)
        top_k = np.array([p.top_k for p in params], dtype=np.int32)
        min_p = np.array([p.min_p for p in params], dtype=np.float32)
        typical = np.array([p.typical_p for p in params], dtype=np.float32)
        top_k = np.where(top_k > 0, top_k, _EVERY).astype(np.int32)
        self._top_p = mx.array(np.where(top_p < 1, top_p, np.inf))[:, None]
        self._top_k = mx.array(top_k)[:, None]
        self._uses_top_p, self._uses_top_k = bool((top_p < 1).any()), bool((top_k < _EVERY).any())
        self._largest_k = int(top_k.max())
        self._typical = mx.array(typical)[:, None] if (typical < 1).any() else None
        with np.errstate(divide="ignore"):
            self._log_min_p = mx.array(np.log(min_p))[:, None] if (min_p > 0).any() else None

    def masked(self, logits: mx.array) -> mx.array:
        """Float32 logits [rows, vocab] after typical_p and min_p, -inf for what they drop."""
        logits = self._keep_typical(logits)
        if self._log_min_p is None:
            return logits
        threshold = mx.max(logits, axis=-1, keepdims=True) + self._log_min_p
        return mx.where(logits < threshold, -mx.inf, logits)

    def ranked(self, logits: mx.array) -> Iterator[Ranked]:
        """What the rows may draw after all filters; a later part replaces rows of an earlier one.

        On the CPU a partition is many times cheaper than a sort, so only the candidates are
        sorted; rows that may draw something else follow with more candidates, at last with the
        whole vocabulary. On the GPU a partition is a sort, and reading which rows those are
        would stall the pipeline. A row's parts depend on that row alone, so that its company
        cannot change its tokens: the numbers of candidates are fixed, and MLX partitions and
        sorts row by row.
        """
        logits = self._keep_typical(logits)
        total = _logsumexp(logits) if self._uses_top_p else mx.zeros((len(self._params), 1))
        filters, rows, count = self, None, CANDIDATES
        while mx.default_device() == mx.cpu and 4 * count <= logits.shape[-1]:
            ids, values = _most_likely(logits, count)
            kept, covered = filters._keep(values, total)
            yield Ranked(rows, ids, kept)
            if filters._largest_k <= count:
                return
            rest = np.flatnonzero(~np.array(covered))
            if not rest.size:
                return
            filters = Filters([filters._params[i] for i in rest.tolist()])
            chosen = mx.array(rest)
            logits, total, count = logits[chosen], total[chosen], 4 * count
            rows = chosen if rows is None else rows[chosen]
        ids = mx.argsort(-logits, axis=-1)
        kept, _ = filters._keep(mx.take_along_axis(logits, ids, axis=-1), total)
        yield Ranked(rows, ids, kept)

    def _keep(self, values: mx.array, total: mx.array) -> tuple[mx.array, mx.array]:
        """Apply top_p, min_p and top_k to the most likely logits, [rows, count], descending.

        As in mlx-lm, tokens as likely as the last one of the nucleus belong to it, and top_k
        keeps no more than its number. total: [rows, 1], the logsumexp of the whole vocabulary.
        Returns the logits, -inf where dropped, and whether no token further down could be
        kept, bool [rows].
        """
        threshold = lowest = values[:, -1:]
        if self._uses_top_p:
            above = mx.cumsum(mx.exp(values - total), axis=-1, inclusive=False)
            size = mx.maximum((above < self._top_p).sum(axis=-1, keepdims=True), 1)
            threshold = mx.take_along_axis(values, size - 1, axis=-1)
        if self._log_min_p is not None:
            threshold = mx.maximum(threshold, values[:, :1] + self._log_min_p)
        keep = values >= threshold
        if self._uses_top_k:
            keep = keep & (mx.arange(values.shape[-1]) < self._top_k)
        covered = (threshold > lowest) | (self._top_k <= values.shape[-1])
        return mx.where(keep, values, -mx.inf), covered[:, 0]

    def _keep_typical(self, logits: mx.array) -> mx.array:
        """Keep the tokens whose information is nearest to the distribution's entropy.

        Meister et al., "Locally Typical Sampling", 2022.
        """
        if self._typical is None:
            return logits
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        probabilities = mx.exp(logprobs)
        # 0 * -inf is not a number, but a banned token adds nothing to the entropy.
        information = mx.where(probabilities > 0, -logprobs, 0)
        entropy = (probabilities * information).sum(axis=-1, keepdims=True)
        distance = mx.where(probabilities > 0, mx.abs(information - entropy), mx.inf)
        order = mx.argsort(distance, axis=-1)
        covered = mx.cumsum(mx.take_along_axis(probabilities, order, axis=-1), axis=-1)
        size = (covered < self._typical).sum(axis=-1, keepdims=True)
        last = mx.take_along_axis(order, mx.minimum(size, logits.shape[-1] - 1), axis=-1)
        limit = mx.take_along_axis(distance, last, axis=-1)
        return mx.where((distance > limit) & (self._typical < 1), -mx.inf, logits)


def _most_likely(logits: mx.array, count: int) -> tuple[mx.array, mx.array]:
    """Ids and logits of every row's most likely tokens, [rows, count], descending."""
    ids = mx.argpartition(logits, kth=-count, axis=-1)[:, -count:]
    values = mx.take_along_axis(logits, ids, axis=-1)
    order = mx.argsort(-values, axis=-1)
    ids = mx.take_along_axis(ids, order, axis=-1)
    return ids, mx.take_along_axis(values, order, axis=-1)


def _logsumexp(logits: mx.array) -> mx.array:
    """Logsumexp of every row, [rows, 1]."""
    if mx.default_device() != mx.cpu:
        return mx.logsumexp(logits, axis=-1, keepdims=True)
    # NumPy's exp is vectorised, MLX's on a CPU without Accelerate is not: 1.7 ms become 0.1
    # for [16, 8192]. Whatever is banned in full has no maximum to subtract.
    values = np.asarray(logits, order="C")
    most = np.nan_to_num(values.max(axis=-1, keepdims=True), neginf=0.0)
    with np.errstate(all="ignore"):
        return mx.array(most + np.log(np.exp(values - most).sum(axis=-1, keepdims=True)))
