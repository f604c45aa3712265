"""The samplers and the penalty from their definitions, in plain numpy, one row at a time."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64) - logits.max())
    return powers / powers.sum()


def mirostat_support(logits: np.ndarray, mu: float) -> set[int]:
    """Ids in descending order of probability until one is more surprising than mu."""
    probabilities = softmax(logits)
    order = np.argsort(-probabilities, kind="stable")
    support = {int(order[0])}
    for token in order[1:]:
        if probabilities[token] == 0 or -np.log2(probabilities[token]) > mu:
            break
        support.add(int(token))
    return support


def xtc_support(logits: np.ndarray, threshold: float) -> set[int]:
    """Without the tokens that reach the threshold, in descending order, but for the last."""
    probabilities = softmax(logits)
    order = np.argsort(-probabilities, kind="stable")
    reached = [int(token) for token in order if probabilities[token] >= threshold]
    return {int(token) for token in order} - set(reached[:-1])


def top_n_sigma_support(logits: np.ndarray, n: float) -> set[int]:
    present = logits[np.isfinite(logits)].astype(np.float64)
    limit = present.max() - n * present.std()
    return {int(token) for token in np.flatnonzero(logits >= limit)}


def dry_penalties(
    tokens: Sequence[int],
    multiplier: float,
    base: float,
    allowed_length: int,
    last_n: int,
    sequence_breakers: Collection[int],
) -> dict[int, float]:
    """What is subtracted from which logit, after these tokens."""
    tokens = list(tokens[-last_n:]) if last_n else list(tokens)
    longest: dict[int, int] = {}
    for follower in range(1, len(tokens)):
        length = 0
        while length < min(50, follower):
            token = tokens[follower - 1 - length]
            if token != tokens[-1 - length] or token in sequence_breakers:
                break
            length += 1
        token = tokens[follower]
        if length and token not in sequence_breakers:
            longest[token] = max(length, longest.get(token, 0))
    return {
        token: multiplier * base ** (length - allowed_length)
        for token, length in longest.items()
        if length >= allowed_length
    }
