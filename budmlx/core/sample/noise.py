"""Random numbers of rows and tokens, made by hashing: the same whatever else is drawn."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

# The largest float32 below 2**-32: the number that is made must stay below 1.
_STEP = 2.0**-32 * (1 - 2.0**-24)


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
