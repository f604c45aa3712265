"""Samplers against their definitions: what may be drawn, how often, and mirostat's control."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from budmlx_sampler_extras import MIROSTAT, TOP_N_SIGMA, XTC
from budmlx_sampler_extras.samplers import (
    Mirostat,
    exclude_top_choices,
    keep_near_top,
    keep_unsurprising,
    surprises,
)
from pydantic import ValidationError
from references import mirostat_support, softmax, top_n_sigma_support, xtc_support

from budmlx.plugins.discovery import import_target
from budmlx.plugins.specs import RowContext, SamplerSpec
from budmlx.testing import check_sampler

DRAWS = 20_000
VOCAB = 200

Mask = Callable[[mx.array, mx.array], mx.array]
Support = Callable[[np.ndarray, float], set[int]]


def unsurprising(logits: mx.array, limit: mx.array) -> mx.array:
    return keep_unsurprising(surprises(logits), limit)


MASKS: dict[str, tuple[Mask, Support, list[float]]] = {
    "mirostat": (unsurprising, mirostat_support, [-3, 0, 0.5, 2, 4, 5.5, 7, 9, 12, 40]),
    "xtc": (exclude_top_choices, xtc_support, [1e-6, 0.001, 0.01, 0.03, 0.1, 0.2, 0.4, 0.5]),
    "top-n-sigma": (keep_near_top, top_n_sigma_support, [0.01, 0.3, 0.7, 0.9, 1.5, 1.9, 3.1, 10]),
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("spread", [0.2, 2.0, 9.0])
@pytest.mark.parametrize("banned", [0.0, 0.5, 0.99])
def test_each_row_keeps_what_the_definition_keeps(name: str, spread: float, banned: float) -> None:
    mask, support, values = MASKS[name]
    rng = np.random.default_rng(int(spread * 10 + banned * 1000))
    for _ in range(5):
        logits = rng.normal(size=(len(values), VOCAB)).astype(np.float32) * spread
        logits[:, 1:][rng.random((len(values), VOCAB - 1)) < banned] = -np.inf
        kept = np.array(mask(mx.array(logits), mx.array(values)) & mx.isfinite(mx.array(logits)))
        for row, value in enumerate(values):
            present = set(np.flatnonzero(np.isfinite(logits[row])).tolist())
            wanted = support(logits[row], value) & present
            assert set(np.flatnonzero(kept[row]).tolist()) == wanted, (row, value)


def test_equal_top_choices_are_excluded_but_one() -> None:
    logits = mx.array([[2.0, 2.0, 2.0, -1.0]])
    assert np.array(exclude_top_choices(logits, mx.array([0.2]))).sum() == 2


def sample(spec: SamplerSpec, logits: np.ndarray, seed: int, **options: Any) -> np.ndarray:
    """Many first draws from one row of logits."""
    sampler = import_target(spec.core)()
    state = sampler.init(spec.options.model_validate(options).model_dump(mode="json"))
    many = {name: mx.repeat(value, DRAWS, axis=0) for name, value in state.items()}
    rows = mx.broadcast_to(mx.array(logits), (DRAWS, len(logits)))
    keys = mx.random.split(mx.random.key(seed), DRAWS)
    context = RowContext([[1]] * DRAWS, mx.zeros((DRAWS,), dtype=mx.uint32))
    return np.array(sampler.sample(rows, many, context, keys)[0])


def renormalised(logits: np.ndarray, support: set[int]) -> np.ndarray:
    inside = np.isin(np.arange(len(logits)), list(support))
    return softmax(np.where(inside, logits, -np.inf))


def assert_frequencies(ids: np.ndarray, probabilities: np.ndarray) -> None:
    """Pearson's chi-square; its cube root is nearly normal (Wilson, Hilferty, 1931)."""
    counts = np.bincount(ids, minlength=len(probabilities))
    assert not counts[probabilities == 0].any()
    possible = probabilities > 0
    expected = probabilities[possible] * len(ids)
    assert expected.min() > 5
    statistic = ((counts[possible] - expected) ** 2 / expected).sum()
    freedom = len(expected) - 1
    if freedom:
        spread = 2 / (9 * freedom)
        assert ((statistic / freedom) ** (1 / 3) - 1 + spread) / math.sqrt(spread) < 3.5


LOGITS = np.random.default_rng(4).normal(size=24).astype(np.float32) * 1.3


@pytest.mark.parametrize("tau", [0.3, 1.0, 1.6, 3.0])
def test_mirostat_frequencies(tau: float) -> None:
    ids = sample(MIROSTAT, LOGITS, 11, tau=tau)
    assert_frequencies(ids, renormalised(LOGITS, mirostat_support(LOGITS, 2 * tau)))


@pytest.mark.parametrize("probability", [0.0, 0.25, 0.8, 1.0])
@pytest.mark.parametrize("threshold", [0.02, 0.1])
def test_xtc_frequencies(probability: float, threshold: float) -> None:
    ids = sample(XTC, LOGITS, 12, threshold=threshold, probability=probability)
    excluded = renormalised(LOGITS, xtc_support(LOGITS, threshold))
    assert (excluded == 0).sum() > 1
    assert_frequencies(ids, probability * excluded + (1 - probability) * softmax(LOGITS))


@pytest.mark.parametrize("n", [0.4, 1.0, 2.0])
def test_top_n_sigma_frequencies(n: float) -> None:
    ids = sample(TOP_N_SIGMA, LOGITS, 13, n=n)
    assert_frequencies(ids, renormalised(LOGITS, top_n_sigma_support(LOGITS, n)))


def test_top_n_sigma_keeps_the_same_at_every_temperature() -> None:
    logits = mx.array(LOGITS[None])
    masks = [np.array(keep_near_top(logits / t, mx.array([1.0]))) for t in (0.3, 1.0, 4.0)]
    assert all((mask == masks[0]).all() for mask in masks)


def test_mirostat_controls_the_surprise() -> None:
    """mu as the definition has it at every step, and tau bits per token in the long run."""
    steps, taus, etas = 600, [2.5, 3.5, 4.5], [0.05, 0.1, 0.3]
    sampler = Mirostat()
    states = [sampler.init({"tau": tau, "eta": eta}) for tau, eta in zip(taus, etas, strict=True)]
    state = {name: mx.concatenate([one[name] for one in states]) for name in states[0]}
    expected = [2 * tau for tau in taus]
    observed = np.zeros((steps, len(taus)))
    rng = np.random.default_rng(5)
    context = RowContext([[1]] * len(taus), mx.array([1] * len(taus)))
    for step in range(steps):
        zipf = -1.1 * np.log(np.arange(1, 401))
        logits = np.stack([rng.permutation(zipf) for _ in taus]).astype(np.float32)
        keys = mx.random.split(mx.random.key(step), len(taus))
        ids, state = sampler.sample(mx.array(logits), state, context, keys)
        for row, token in enumerate(ids.tolist()):
            assert token in mirostat_support(logits[row], expected[row] + 1e-3)
            observed[step, row] = -np.log2(softmax(logits[row])[token])
            expected[row] -= etas[row] * (observed[step, row] - taus[row])
        assert np.allclose(np.array(state["mu"]), expected, atol=1e-3)
    assert np.allclose(observed[100:].mean(axis=0), taus, atol=0.1)


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        (MIROSTAT, {}),
        (MIROSTAT, {"tau": 0.5, "eta": 1}),
        (XTC, {}),
        (XTC, {"threshold": 0.01, "probability": 1}),
        (TOP_N_SIGMA, {}),
        (TOP_N_SIGMA, {"n": 3}),
    ],
)
def test_contract(spec: SamplerSpec, options: dict[str, Any]) -> None:
    check_sampler(spec, **options)


@pytest.mark.parametrize(
    ("spec", "options"),
    [
        (MIROSTAT, {"tau": 0}),
        (MIROSTAT, {"eta": 1.1}),
        (MIROSTAT, {"tau": math.nan}),
        (MIROSTAT, {"mu": 3}),
        (XTC, {"threshold": 0}),
        (XTC, {"threshold": 0.6}),
        (XTC, {"probability": -0.1}),
        (TOP_N_SIGMA, {"n": 0}),
        (TOP_N_SIGMA, {"n": math.inf}),
    ],
)
def test_options_out_of_range_are_refused(spec: SamplerSpec, options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        spec.options.model_validate(options)
