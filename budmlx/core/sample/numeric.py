"""Arithmetic that sampling needs in large amounts, in few and cheap operations.

MLX's exp on a CPU without Accelerate is not vectorised: one takes as long as fifty
multiplications. And what `mx.compile` fuses there, a C++ compiler has to build first, which
takes seconds; on a GPU it takes little.
"""

from __future__ import annotations

from collections.abc import Callable
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
