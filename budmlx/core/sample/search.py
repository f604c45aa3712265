"""The boundary between tokens that are kept and tokens that are dropped, found without a sort."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from budmlx.core.sample.numeric import bits_to_float, float_bits

INFINITE = 0x7F800000
"""The key of a token that must not be drawn."""
UNLIMITED = 2**31 - 1
"""A limit that nothing reaches."""
# All weights of a row add up to less than 2**31, however many tokens there are.
_WHOLE = 2.0**30
# The key of 2**-24: two logits that differ by less are one probability in float32.
_ALIKE = 0x33800000
_ALIKE_BITS = 28


def weights(likelihoods: mx.array) -> mx.array:
    """Positive float32 numbers [rows, count] as int32 in proportion, 2**29 to 2**30 together.

    Sums of integers are exact in any order, so that they are the same in any company.
    """
    scale = _WHOLE / likelihoods.sum(axis=-1, keepdims=True)
    # A power of two, so that the last digits of the sum do not matter.
    scale = bits_to_float(float_bits(scale) & INFINITE)
    return (likelihoods * scale + 0.5).astype(mx.int32)


def limit(total: mx.array, shares: mx.array) -> mx.array:
    """The weight [rows, 1] at which a share is reached; a share of 1 or more never is.

    total: int32 [rows, 1]. shares: float32 [rows, 1].
    """
    reached = mx.maximum(mx.ceil(total * mx.minimum(shares, 1.0)).astype(mx.int32), 1)
    return mx.where(shares < 1, reached, UNLIMITED)


def boundary(
    keys: mx.array, limits: Sequence[tuple[mx.array | None, mx.array]], *, coarse: bool
) -> mx.array:
    """The largest key, int32 [rows, 1], before which all limits hold.

    A limit is a pair of weights and a number: the weights of all tokens with smaller keys add
    up to less. Without weights, tokens are counted. Found bit by bit, by one sum for each.
    keys: int32 [rows, count], none negative; the bits of a float32.
    coarse: keys count as equal up to that of 2**-24, and none reaches that of 256.
    """
    found = mx.full((keys.shape[0], 1), _ALIKE if coarse else 0, dtype=mx.int32)
    for bit in reversed(range(_ALIKE_BITS if coarse else 31)):
        trial = found + (1 << bit)
        # All ones where a key is smaller, else 0: a comparison would have to be converted.
        smaller = (keys - trial) >> 31
        holds = None
        for amounts, most in limits:
            masked = -smaller if amounts is None else smaller & amounts
            less = masked.sum(axis=-1, keepdims=True) < most
            holds = less if holds is None else holds & less
        found = mx.where(holds, trial, found)
    return found


def first(keys: mx.array, last: mx.array, count: mx.array | int) -> mx.array:
    """Which tokens are the `count` first ones up to the key `last`, bool [rows, n].

    Of those with that key, the ones with the lowest ids.
    """
    smaller, equal = keys < last, keys == last
    places = count - smaller.sum(axis=-1, keepdims=True)
    return smaller | (equal & (mx.cumsum(equal.astype(mx.int32), axis=-1) <= places))
