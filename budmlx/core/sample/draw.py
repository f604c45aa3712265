"""Draws tokens at random, each row with its own key, temperature and filters.

Every token of the vocabulary has a random number of its own, which depends on the row's key and
on the token's id alone; the token with the least quotient of number and probability is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from budmlx.core.sample.filters import Kind, Limits, keep, kind_of, limits_of, takes_candidates
from budmlx.core.sample.noise import exponentials
from budmlx.core.sample.numeric import LOG2_E, by_rows, exp2, fused
from budmlx.protocol import GenerateRequest

_LARGEST = float(np.finfo(np.float32).max)


class Draws:
    """The rows of a group that are drawn.

    indices: which ones; those whose temperature is 0 count as if it were 1.
    """

    def __init__(self, requests: Sequence[GenerateRequest], indices: Sequence[int]):
        kinds: dict[Kind, list[int]] = {}
        for i in indices:
            kinds.setdefault(kind_of(requests[i]), []).append(i)
        self._parts = [_Part(requests, same) for same in kinds.values()]

    def draw(self, logits: mx.array, keys: mx.array, tokens: mx.array | None) -> mx.array:
        """Token ids, uint32 [rows]: `tokens` with those of the drawn rows replaced.

        logits: float32 [rows, vocab]; keys: uint32 [rows, 2]. tokens: None if all are drawn.
        """
        for part in self._parts:
            tokens = part.put(tokens, part.draw(part.rows(logits), part.rows(keys)))
        assert tokens is not None
        return tokens

    def allowed(self, logits: mx.array) -> mx.array:
        """Logits [rows, vocab] by temperature, -inf for what a row must not draw."""
        allowed = logits
        for part in self._parts:
            allowed = part.put(allowed, part.allowed(part.rows(logits)))
        return allowed


class _Part:
    """Rows that are filtered in the same way."""

    def __init__(self, requests: Sequence[GenerateRequest], indices: Sequence[int]):
        chosen = [requests[i] for i in indices]
        self._count = len(requests)
        self._indices = None if len(chosen) == len(requests) else mx.array(list(indices))
        inverse = [min(1 / (r.temperature or 1), _LARGEST) for r in chosen]
        self._kind, limits = limits_of(chosen)
        self._parameters = (mx.array(inverse)[:, None], *limits.arrays)
        self._scaled = any(number != 1 for number in inverse)

    def rows(self, array: mx.array) -> mx.array:
        """These rows of an array."""
        return array if self._indices is None else array[self._indices]

    def put(self, array: mx.array | None, rows: mx.array) -> mx.array:
        """The array with these rows replaced; rows that are in no part yet are 0."""
        if self._indices is None:
            return rows
        array = mx.zeros((self._count,), dtype=rows.dtype) if array is None else mx.array(array)
        array[self._indices] = rows
        return array

    def draw(self, logits: mx.array, keys: mx.array) -> mx.array:
        """Token ids [these rows]."""
        function = fused(_draw, self._kind, self._scaled)
        if takes_candidates(self._kind, logits.shape[-1]):
            return function(logits, keys, *self._parameters)
        return by_rows(function, logits, keys, *self._parameters)

    def allowed(self, logits: mx.array) -> mx.array:
        """See `Draws.allowed`."""
        return fused(_allowed, self._kind)(logits, *self._parameters)


def _draw(
    kind: Kind,
    scaled: bool,
    logits: mx.array,
    keys: mx.array,
    inverse: mx.array,
    *parameters: mx.array,
) -> mx.array:
    kept = keep(kind, logits, Limits(*parameters))
    likelihoods = kept.likelihoods
    if scaled or likelihoods is None:
        likelihoods = exp2(kept.distances * (inverse * -LOG2_E))
    scores = likelihoods / exponentials(keys, kept.ids)
    if kept.allowed is not None:
        scores = scores * kept.allowed
    best = scores.argmax(axis=-1, keepdims=True)
    if kept.ids.shape[0] != logits.shape[0]:
        return best[:, 0]
    # Where nothing may be drawn, the best candidate may lie behind the vocabulary's end.
    tokens = mx.take_along_axis(kept.ids, best, axis=-1)[:, 0]
    return mx.minimum(tokens, logits.shape[-1] - 1)


def _allowed(kind: Kind, logits: mx.array, inverse: mx.array, *parameters: mx.array) -> mx.array:
    kept = keep(kind, logits, Limits(*parameters), everywhere=True)
    by_temperature = kept.logits * inverse
    if kept.allowed is None:
        return by_temperature
    return mx.where(kept.allowed, by_temperature, -mx.inf)
