"""One vectorised sampling call for all rows of a group, each with its own parameters.

A feature that no row uses costs nothing. The filters are those of mlx-lm: they look at the
distribution before temperature, and each keeps a prefix of the tokens in descending order,
so that together they are one threshold per row.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from budmlx.protocol import GenerateRequest

# Nucleus and top-k thresholds are looked for among this many most likely tokens first.
CANDIDATES = 512

_categorical = mx.vmap(lambda logits, key: mx.random.categorical(logits, key=key))


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


class RowSampling:
    """The sampling parameters of a group's rows, as arrays; rebuilt when rows come or go."""

    def __init__(self, requests: Sequence[GenerateRequest]):
        temperature = np.array([r.temperature for r in requests], dtype=np.float32)
        drawn = temperature > 0
        top_p = np.array([r.top_p for r in requests], dtype=np.float32)
        top_k = np.array([r.top_k for r in requests], dtype=np.int32)
        min_p = np.array([r.min_p for r in requests], dtype=np.float32)
        self._seeds = np.array([r.seed % 2**64 for r in requests], dtype=np.uint64)
        self._choices = np.array([r.choice for r in requests], dtype=np.uint64)
        self._any_drawn = bool(drawn.any())
        self._all_drawn = bool(drawn.all())
        self._drawn = mx.array(drawn)
        self._inverse = mx.array(1 / np.where(drawn, temperature, 1))[:, None]
        self._top_p = mx.array(top_p)[:, None] if (top_p[drawn] < 1).any() else None
        used_k = top_k[drawn & (top_k > 0)]
        self._top_k = mx.array(top_k)[:, None] if used_k.size else None
        self._largest_k = int(used_k.max(initial=0))
        with np.errstate(divide="ignore"):
            self._log_min_p = mx.array(np.log(min_p))[:, None] if (min_p[drawn] > 0).any() else None

    def sample(self, logits: mx.array, positions: Sequence[int]) -> mx.array:
        """Token ids, uint32 [rows], from logits [rows, vocab].

        positions: for each row, how many tokens it generated before this one.
        """
        greedy = mx.argmax(logits, axis=-1)
        if not self._any_drawn:
            return greedy
        logits = logits.astype(mx.float32)
        threshold = self._threshold(logits)
        if threshold is not None:
            logits = mx.where(logits < threshold, -mx.inf, logits)
        keys = random_keys(self._seeds, self._choices, np.array(positions, dtype=np.uint64))
        tokens = _categorical(logits * self._inverse, keys)
        return tokens if self._all_drawn else mx.where(self._drawn, tokens, greedy)

    def _threshold(self, logits: mx.array) -> mx.array | None:
        """The smallest logit that each row keeps, [rows, 1]; None when nothing is filtered."""
        threshold = None
        if self._log_min_p is not None:
            threshold = mx.max(logits, axis=-1, keepdims=True) + self._log_min_p
        if self._top_p is not None or self._top_k is not None:
            kept = self._ranked_threshold(logits)
            threshold = kept if threshold is None else mx.maximum(threshold, kept)
        return threshold

    def _ranked_threshold(self, logits: mx.array) -> mx.array:
        """Threshold of top_p and top_k. Which tokens are sorted depends on the device.

        On the CPU a partition is many times cheaper than a sort, so only the most likely
        tokens are sorted unless some row's nucleus reaches further. On the GPU a partition
        is a sort, and reading whether it reaches further would stall the pipeline.
        """
        vocab = logits.shape[-1]
        normalizer = mx.logsumexp(logits, axis=-1, keepdims=True)
        count = max(CANDIDATES, self._largest_k)
        if mx.default_device() == mx.cpu and count < vocab // 4:
            top = mx.sort(mx.topk(logits, count, axis=-1), axis=-1)
            if self._top_p is None or _covered(top, normalizer, self._top_p):
                return self._threshold_in(top, normalizer)
        return self._threshold_in(mx.sort(logits, axis=-1), normalizer)

    def _threshold_in(self, ascending: mx.array, normalizer: mx.array) -> mx.array:
        """Look the threshold up in the sorted most likely logits, [rows, count]."""
        count = ascending.shape[-1]
        threshold = None
        if self._top_p is not None:
            probabilities = mx.exp(ascending - normalizer)
            above = mx.cumsum(probabilities, axis=-1, reverse=True, inclusive=False)
            dropped = (above >= self._top_p).sum(axis=-1, keepdims=True)
            nucleus = mx.take_along_axis(ascending, mx.minimum(dropped, count - 1), axis=-1)
            threshold = mx.where(self._top_p < 1, nucleus, -mx.inf)
        if self._top_k is not None:
            rank = mx.clip(count - self._top_k, 0, count - 1)
            kth = mx.take_along_axis(ascending, rank, axis=-1)
            kth = mx.where(self._top_k > 0, kth, -mx.inf)
            threshold = kth if threshold is None else mx.maximum(threshold, kth)
        assert threshold is not None
        return threshold


def _covered(ascending: mx.array, normalizer: mx.array, top_p: mx.array) -> bool:
    mass = mx.exp(ascending - normalizer).sum(axis=-1, keepdims=True)
    return bool(((mass >= top_p) | (top_p >= 1)).all().item())
