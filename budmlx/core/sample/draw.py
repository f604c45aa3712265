"""Draws tokens at random, each row with its own key, temperature and filters.

Every token of the vocabulary has a random number of its own, which depends on the row's key and
on the token's id alone; the token with the least quotient of number and probability is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from budmlx.core.sample.filters import Kind, Limits, keep, kind_of, limits_of, takes_candidates
from budmlx.core.sample.numeric import LOG2_E, by_rows, exp2, fused
from budmlx.types import SamplingParams

# The largest inverse of a temperature: what it is multiplied with must stay finite.
_LARGEST = 2.0**100
# The largest float32 below 2**-32: the number that is made must stay below 1.
_STEP = 2.0**-32 * (1 - 2.0**-24)


class Draws:
    """The rows of a group that are drawn.

    indices: which ones; those whose temperature is 0 count as if it were 1.
    """

    def __init__(self, params: Sequence[SamplingParams], indices: Sequence[int]):
        kinds: dict[Kind, list[int]] = {}
        for i in indices:
            kinds.setdefault(kind_of(params[i]), []).append(i)
        self._parts = [_Part(params, same) for same in kinds.values()]

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

    def __init__(self, params: Sequence[SamplingParams], indices: Sequence[int]):
        chosen = [params[i] for i in indices]
        self._count = len(params)
        self._indices = None if len(chosen) == len(params) else mx.array(list(indices))
        inverse = [min(1 / (p.temperature or 1), _LARGEST) for p in chosen]
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


def random_keys(seeds: np.ndarray, choices: np.ndarray, positions: np.ndarray) -> mx.array:
    """Random keys, uint32 [rows, 2], hashed from (seed, choice, position), each uint64 [rows].

    The hash is SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number
    generators", 2014), so a row draws the same numbers whatever else runs.
    """
    with np.errstate(over="ignore"):
        word = _splitmix(_splitmix(_splitmix(seeds) + choices) + positions)
    return mx.array(word.view(np.uint32).reshape(-1, 2))


def _splitmix(x: np.ndarray) -> np.ndarray:
    z = x + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = z ^ (z >> np.uint64(31))
    return mixed


def exponentials(keys: mx.array, ids: mx.array) -> mx.array:
    """Exponentially distributed numbers, float32 [rows, count], above 0, one for each token.

    The token that has the least of its number divided by its probability is drawn in
    proportion to the probabilities, as with Gumbel noise, without a second logarithm.
    keys: uint32 [rows, 2]. ids: token ids, uint32 [rows or 1, count].
    """
    uniform = (_hash(keys, ids).astype(mx.float32) + 0.5) * _STEP
    # -log(1 - u) decides between unlikely tokens where u is small and 1 - u has lost its digits;
    # the error of the logarithm is in the same proportion as that of the difference.
    rest = 1 - uniform
    lost = mx.minimum(rest - 1, -(2.0**-25))
    return mx.maximum(mx.log(rest) * (uniform / lost), uniform)


def _hash(keys: mx.array, ids: mx.array) -> mx.array:
    """Well mixed uint32 [rows, count] of a row's two words and a token id.

    The steps are those of "lowbias32" (Wellons, "Prospecting for hash functions", 2018), of
    which the first ones are done for each id and the last one adds nothing to the high bits.
    """
    x = _mixed(ids) ^ keys[:, :1]
    x = x * 0x21F0AAAD
    x = (x ^ (x >> 15)) + keys[:, 1:]
    return x * 0x735A2D97


def _mixed(x: mx.array) -> mx.array:
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)
