"""Which tokens may be drawn: top_k, top_p, min_p and typical_p, each row with its own.

The filters look at the distribution before temperature, as mlx-lm's do. All but typical_p
keep a prefix of the tokens in descending order, so that together they are one threshold.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from budmlx.protocol import GenerateRequest

# Nucleus and top-k thresholds are looked for among this many most likely tokens first.
CANDIDATES = 512


class Filters:
    """The filter parameters of a group's rows, as arrays. A filter nobody uses costs nothing."""

    def __init__(self, requests: Sequence[GenerateRequest]):
        drawn = np.array([r.temperature > 0 for r in requests])
        top_p = np.array([r.top_p for r in requests], dtype=np.float32)
        top_k = np.array([r.top_k for r in requests], dtype=np.int32)
        min_p = np.array([r.min_p for r in requests], dtype=np.float32)
        typical = np.array([r.typical_p for r in requests], dtype=np.float32)
        self._top_p = mx.array(top_p)[:, None] if (top_p[drawn] < 1).any() else None
        self._top_k = mx.array(top_k)[:, None] if (top_k[drawn] > 0).any() else None
        self._largest_k = int(top_k[drawn].max(initial=0))
        self._typical = mx.array(typical)[:, None] if (typical[drawn] < 1).any() else None
        with np.errstate(divide="ignore"):
            self._log_min_p = mx.array(np.log(min_p))[:, None] if (min_p[drawn] > 0).any() else None

    def apply(self, logits: mx.array) -> mx.array:
        """Float32 logits [rows, vocab] with -inf for every token that must not be drawn."""
        if self._typical is not None:
            logits = _keep_typical(logits, self._typical)
        threshold = self.threshold(logits)
        return logits if threshold is None else mx.where(logits < threshold, -mx.inf, logits)

    def threshold(self, logits: mx.array) -> mx.array | None:
        """The smallest logit that each row keeps, [rows, 1]; None when nothing is filtered."""
        threshold = None
        if self._log_min_p is not None:
            threshold = mx.max(logits, axis=-1, keepdims=True) + self._log_min_p
        if self._top_p is not None or self._top_k is not None:
            ranked = self._ranked_threshold(logits)
            threshold = ranked if threshold is None else mx.maximum(threshold, ranked)
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
        threshold = mx.array(-mx.inf)
        if self._top_p is not None:
            probabilities = mx.exp(ascending - normalizer)
            above = mx.cumsum(probabilities, axis=-1, reverse=True, inclusive=False)
            dropped = (above >= self._top_p).sum(axis=-1, keepdims=True)
            nucleus = mx.take_along_axis(ascending, mx.minimum(dropped, count - 1), axis=-1)
            threshold = mx.where(self._top_p < 1, nucleus, -mx.inf)
        if self._top_k is not None:
            rank = mx.clip(count - self._top_k, 0, count - 1)
            kth = mx.take_along_axis(ascending, rank, axis=-1)
            threshold = mx.maximum(threshold, mx.where(self._top_k > 0, kth, -mx.inf))
        return threshold


def _covered(ascending: mx.array, normalizer: mx.array, top_p: mx.array) -> bool:
    """Whether these most likely tokens hold every row's nucleus."""
    mass = mx.exp(ascending - normalizer).sum(axis=-1, keepdims=True)
    return bool(((mass >= top_p) | (top_p >= 1)).all().item())


def _keep_typical(logits: mx.array, mass: mx.array) -> mx.array:
    """Keep the tokens whose information is nearest to the distribution's entropy.

    Meister et al., "Locally Typical Sampling", 2022. mass: [rows, 1]; 1 keeps all.
    """
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    probabilities = mx.exp(logprobs)
    # 0 * -inf is not a number, but a banned token adds nothing to the entropy.
    information = mx.where(probabilities > 0, -logprobs, 0)
    entropy = (probabilities * information).sum(axis=-1, keepdims=True)
    distance = mx.where(probabilities > 0, mx.abs(information - entropy), mx.inf)
    order = mx.argsort(distance, axis=-1)
    covered = mx.cumsum(mx.take_along_axis(probabilities, order, axis=-1), axis=-1)
    last = mx.minimum((covered < mass).sum(axis=-1, keepdims=True), logits.shape[-1] - 1)
    limit = mx.take_along_axis(distance, mx.take_along_axis(order, last, axis=-1), axis=-1)
    return mx.where((distance > limit) & (mass < 1), -mx.inf, logits)
