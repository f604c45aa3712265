"""The most likely tokens of a row, found by blocks of the vocabulary.

The blocks with the largest maxima hold the most likely tokens: as many tokens as blocks.
"""

from __future__ import annotations

import mlx.core as mx

from budmlx.core.sample.numeric import boundary, first, float_bits

BLOCK = 16
"""Neighbouring ids in a block."""


def worthwhile(blocks: int, vocab: int) -> bool:
    """Whether so many blocks are much less than the vocabulary."""
    return 2 * blocks * BLOCK <= vocab


def candidates(logits: mx.array, blocks: int) -> tuple[mx.array, mx.array]:
    """Ids, ascending, and logits of tokens with the `blocks` most likely ones among them.

    Of equal logits those with the lowest ids are among them.
    logits: float32 [rows, vocab]. Returns uint32 and float32 [rows, blocks * BLOCK]; behind the
    end of the vocabulary ids go on, with logits of -inf.
    """
    rows, vocab = logits.shape
    if vocab % BLOCK:
        logits = mx.pad(logits, [(0, 0), (0, -vocab % BLOCK)], constant_values=-mx.inf)
    values = logits.reshape(rows, -1, BLOCK)
    chosen = _best(values.max(axis=-1), blocks)[:, :, None]
    ids = chosen * BLOCK + mx.arange(BLOCK)
    values = mx.take_along_axis(values, chosen, axis=1)
    return ids.reshape(rows, -1).astype(mx.uint32), values.reshape(rows, -1)


def most_likely(logits: mx.array, count: int) -> tuple[mx.array, mx.array]:
    """Ids and logits of each row's `count` most likely tokens, [rows, count], in no order."""
    ids = None
    if worthwhile(count, logits.shape[-1]):
        ids, logits = candidates(logits, count)
    places = mx.argpartition(logits, kth=-count, axis=-1)[:, -count:]
    values = mx.take_along_axis(logits, places, axis=-1)
    return places if ids is None else mx.take_along_axis(ids, places, axis=-1), values


def _best(maxima: mx.array, count: int) -> mx.array:
    """Which are the `count` largest of each row, int32 [rows, count], ascending."""
    rows, total = maxima.shape
    keys = float_bits(maxima.max(axis=-1, keepdims=True) - maxima)
    chosen = first(keys, boundary(keys, [(None, mx.array(count))], coarse=False), count)
    # One place more takes what is not chosen, or too much in a row of NaN.
    places = mx.cumsum(chosen.astype(mx.int32), axis=-1) - 1
    places = mx.where(chosen, mx.minimum(places, count), count)
    numbers = mx.broadcast_to(mx.arange(total, dtype=mx.int32), (rows, total))
    slots = mx.zeros((rows, count + 1), dtype=mx.int32)
    return mx.put_along_axis(slots, places, numbers, axis=-1)[:, :count]
