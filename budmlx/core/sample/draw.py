"""Draws tokens at random, each row with its own key, temperature and filters.

A row that filters by rank is drawn by inverting its cumulative distribution, the most likely
token first; any other row is drawn from the whole vocabulary, which then needs no order.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from budmlx.core.sample.filters import Filters, by_rank
from budmlx.types import SamplingParams

_categorical = mx.vmap(lambda logits, key: mx.random.categorical(logits, key=key))
_uniform = mx.vmap(lambda key: mx.random.uniform(key=key))


class Draws:
    """The rows of a group that are drawn.

    indices: which ones; those whose temperature is 0 count as if it were 1.
    """

    def __init__(self, params: Sequence[SamplingParams], indices: Sequence[int]):
        ranked = [i for i in indices if by_rank(params[i])]
        whole = [i for i in indices if not by_rank(params[i])]
        self._parts: list[_Ranked | _Whole] = []
        if ranked:
            self._parts.append(_Ranked(params, ranked))
        if whole:
            self._parts.append(_Whole(params, whole))

    def draw(self, logits: mx.array, keys: mx.array, tokens: mx.array) -> mx.array:
        """`tokens`, uint32 [rows], with those of the drawn rows replaced.

        logits: float32 [rows, vocab]; keys: uint32 [rows, 2].
        """
        for part in self._parts:
            tokens = part.rows.put(tokens, part.draw(part.rows.of(logits), part.rows.of(keys)))
        return tokens

    def allowed(self, logits: mx.array) -> mx.array:
        """Logits [rows, vocab] by temperature, -inf for what a row must not draw."""
        allowed = logits
        for part in self._parts:
            allowed = part.rows.put(allowed, part.allowed(part.rows.of(logits)))
        return allowed


class _Rows:
    """Some rows of an array, or all of them, which then need no copy."""

    def __init__(self, indices: mx.array | None):
        self._indices = indices

    def of(self, array: mx.array) -> mx.array:
        return array if self._indices is None else array[self._indices]

    def put(self, array: mx.array, rows: mx.array) -> mx.array:
        """The array with these rows replaced."""
        if self._indices is None:
            return rows
        array = mx.array(array)
        array[self._indices] = rows
        return array


class _Part:
    """Rows that are drawn in the same way."""

    def __init__(self, params: Sequence[SamplingParams], indices: Sequence[int]):
        chosen = [params[i] for i in indices]
        self.rows = _Rows(None if len(chosen) == len(params) else mx.array(list(indices)))
        self._inverse = mx.array([1 / (p.temperature or 1) for p in chosen])[:, None]
        self._filters = Filters(chosen)


class _Whole(_Part):
    def draw(self, logits: mx.array, keys: mx.array) -> mx.array:
        return _categorical(self.allowed(logits), keys)

    def allowed(self, logits: mx.array) -> mx.array:
        return self._filters.masked(logits) * self._inverse


class _Ranked(_Part):
    def draw(self, logits: mx.array, keys: mx.array) -> mx.array:
        uniform = _uniform(keys)[:, None]
        tokens = mx.zeros(logits.shape[:1], dtype=mx.uint32)
        for part in self._filters.ranked(logits):
            rows = _Rows(part.rows)
            place = _place(part.logits, rows.of(self._inverse), rows.of(uniform))
            tokens = rows.put(tokens, mx.take_along_axis(part.ids, place, axis=-1)[:, 0])
        return tokens

    def allowed(self, logits: mx.array) -> mx.array:
        allowed = logits
        for part in self._filters.ranked(logits):
            rows = _Rows(part.rows)
            banned = mx.full((part.ids.shape[0], logits.shape[-1]), -mx.inf)
            allowed = rows.put(allowed, mx.put_along_axis(banned, part.ids, part.logits, axis=-1))
        return allowed * self._inverse


def _place(logits: mx.array, inverse: mx.array, uniform: mx.array) -> mx.array:
    """Where each row's number in [0, 1), [rows, 1], falls in its cumulated weights.

    logits: [rows, count], descending. inverse: [rows, 1], one over the temperature.
    """
    weights = mx.exp((logits - logits[:, :1]) * inverse)
    cumulated = mx.cumsum(weights, axis=-1)
    place = (cumulated <= uniform * cumulated[:, -1:]).sum(axis=-1, keepdims=True)
    # A product that is rounded up to the total points past the last token that may be drawn.
    last = (weights > 0).sum(axis=-1, keepdims=True) - 1
    return mx.maximum(mx.minimum(place, last), 0)
