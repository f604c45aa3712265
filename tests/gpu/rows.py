"""Rows for sampling, the logits they get, and what numpy says of them in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from budmlx.core.row import Row
from budmlx.core.sample.draw import Draws
from budmlx.core.sample.sampling import Drawn, RowSampling
from budmlx.protocol import GenerateRequest
from tests.core.driver import request

PROMPT = list(range(3, 40))


def peaked(rows: int, vocab: int, dtype: mx.Dtype = mx.float32, seed: int = 0) -> mx.array:
    """Logits [rows, vocab] in which some tens of tokens stand out."""
    chance = np.random.default_rng(seed)
    x = chance.normal(0, 2.5, (rows, vocab)).astype(np.float32)
    places = chance.integers(0, vocab, (rows, 40))
    x[np.arange(rows)[:, None], places] += chance.uniform(6, 12, (rows, 40)).astype(np.float32)
    return mx.array(x).astype(dtype)


def flat(rows: int, vocab: int, dtype: mx.Dtype = mx.float32, seed: int = 0) -> mx.array:
    """Logits [rows, vocab] of which thousands are about as likely."""
    return (peaked(rows, vocab, seed=seed) * 0.2).astype(dtype)


def drawn(count: int, first_seed: int = 1, **changes: Any) -> list[GenerateRequest]:
    """Rows that differ in their seeds alone."""
    return [
        request(i, PROMPT, **{"temperature": 1.0, "seed": first_seed + i, **changes})
        for i in range(count)
    ]


def sample(requests: Sequence[GenerateRequest], logits: mx.array) -> Drawn:
    """One step; `tokens` and `finite` are [rows, 1]."""
    rows = [Row.of(item) for item in requests]
    fed = mx.array([row.ids[-1:] for row in rows])
    return RowSampling(rows, logits.shape[-1]).sample(logits[:, None], fed)


def tokens_of(requests: Sequence[GenerateRequest], logits: mx.array) -> list[int]:
    """What each row draws."""
    tokens: list[int] = sample(requests, logits).tokens[:, 0].tolist()
    return tokens


def kept(requests: Sequence[GenerateRequest], logits: mx.array) -> np.ndarray:
    """Which tokens each row may draw, bool [rows, vocab]."""
    params = [item.sampling for item in requests]
    allowed = Draws(params, range(len(params))).allowed(logits.astype(mx.float32))
    return np.array(allowed) > -np.inf


def reference(logits: np.ndarray, filters: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Which tokens of a row [vocab] the filters keep, by sorting, and all probabilities."""
    x = logits.astype(np.float64)
    logp = x - np.logaddexp.reduce(x)
    p = whole = np.exp(logp)
    allowed = np.ones(len(x), bool)
    if (typical := filters.get("typical_p", 1)) < 1:
        away = np.abs(-logp - (p * -logp).sum())
        order = np.argsort(away, kind="stable")
        last = min(int((np.cumsum(p[order]) < typical).sum()), len(x) - 1)
        allowed &= away <= away[order[last]]
        p = np.where(allowed, p, 0)
        p, logp = p / p.sum(), np.where(allowed, logp, -np.inf)
    order = np.argsort(-logp, kind="stable")
    least = -np.inf
    if (top_p := filters.get("top_p", 1)) < 1:
        above = np.cumsum(p[order]) - p[order]
        least = logp[order][max(int((above < top_p).sum()), 1) - 1]
    if (min_p := filters.get("min_p", 0)) > 0:
        least = max(least, logp.max() + np.log(min_p))
    allowed &= logp >= least
    if top_k := filters.get("top_k", 0):
        first = np.zeros(len(x), bool)
        first[order[:top_k]] = True
        allowed &= first
    return allowed, whole


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Of rows [rows, vocab], in float64."""
    x = logits.astype(np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    logp: np.ndarray = x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
    return logp
