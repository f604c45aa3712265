"""Arithmetic that sampling needs in large amounts, in few and cheap operations.

Besides powers of two and largest numbers, that is the boundary between tokens that are kept and
tokens that are dropped, found without a sort. MLX's exp on a CPU without Accelerate is not
vectorised: one takes as long as fifty multiplications. And what `mx.compile` fuses there, a C++
compiler has to build first, which takes seconds; on a GPU it takes little.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import mlx.core as mx

# Less counts as this much: float32 has hardly anything below 2**-126.
_LOWEST = -125.0
# Added to a small number, it leaves the nearest integer in the lowest bits.
_ROUND = 1.5 * 2**23
# 2**x for |x| <= 1/2 with a relative error of 1e-7, and 1 at 0; the highest power first.
_POWERS = (
    0.001326471334323287,
    0.009671523235738277,
    0.05550733953714371,
    0.24022242426872253,
    0.6931470036506653,
    1.0,
)
_LANES = 64
# Numbers in an array of which a few fit into a CPU's second cache.
_CACHED = 2**19

INFINITE = 0x7F800000
"""The key of a token that must not be drawn."""
UNLIMITED = 2**31 - 1
"""A limit that nothing reaches."""
# All weights of a row add up to less than 2**31, however many tokens there are.
_WHOLE = 2.0**30
# The key of 2**-24: two logits that differ by less are one probability in float32.
_ALIKE = 0x33800000
_ALIKE_BITS = 28

LOG2_E = 1.4426950408889634


def exp2(x: mx.array) -> mx.array:
    """Float32 2**x for x <= 0, exactly 1 at 0; what would be less than 2**-125 is that."""
    x = mx.maximum(x, _LOWEST)
    if mx.default_device() != mx.cpu:
        return mx.exp(x * (1 / LOG2_E))
    rounded = x + _ROUND
    rest = x - (rounded - _ROUND)
    result = rest * _POWERS[0] + _POWERS[1]
    for power in _POWERS[2:]:
        result = result * rest + power
    # The integer part is added to the exponent; what else `rounded` contains is shifted out.
    return bits_to_float(float_bits(result) + (float_bits(rounded) << 23))


def row_max(x: mx.array) -> mx.array:
    """The largest number of each row, [rows, 1]."""
    rows, count = x.shape
    if mx.default_device() == mx.cpu and count % _LANES == 0:
        # MLX compares neighbouring columns in one instruction, but not along a row.
        x = x.reshape(rows, _LANES, -1).max(axis=1)
    return x.max(axis=-1, keepdims=True)


def by_rows(function: Callable[..., mx.array], *arrays: mx.array) -> mx.array:
    """`function` of arrays whose first axis is rows, each row computed for itself.

    On a CPU few rows at a time, so that what is between them stays in the cache.
    """
    rows, width = arrays[0].shape
    count = max(_CACHED // width, 1)
    if mx.default_device() != mx.cpu or rows <= count:
        return function(*arrays)
    pieces: list[mx.array] = []
    for begin in range(0, rows, count):
        some = [array[begin : begin + count] for array in arrays]
        # MLX would take up all pieces at once.
        some[:1] = mx.depends(some[:1], pieces[-1:])
        pieces.append(function(*some))
    return mx.concatenate(pieces)


def float_bits(x: mx.array) -> mx.array:
    """The bits of float32 numbers as int32: in the same order where they are not negative."""
    return x.view(mx.int32)


def bits_to_float(bits: mx.array) -> mx.array:
    """The float32 numbers with these bits."""
    return bits.view(mx.float32)


def fused(function: Callable[..., mx.array], *constants: Any) -> Callable[..., mx.array]:
    """`function` with its first arguments given, compiled where that is cheap.

    It must be pure, and the constants hashable.
    """
    return _fused(function, constants, mx.default_device() != mx.cpu)  # type: ignore[no-any-return]


@cache
def _fused(function: Callable[..., mx.array], constants: tuple[Any, ...], compiled: bool) -> Any:
    whole = partial(function, *constants)
    return mx.compile(whole) if compiled else whole


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
