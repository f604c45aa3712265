"""Sampling against mlx-lm's filters and against the probabilities themselves."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx_lm.sample_utils import apply_min_p, apply_top_k, apply_top_p

from budmlx.core.row import Row
from budmlx.core.sample.draw import Draws, random_keys
from budmlx.core.sample.sampling import Drawn, RowSampling
from budmlx.protocol import GenerateRequest
from tests.amount import examples
from tests.core.driver import request


def kept(rows: list[GenerateRequest], logits: mx.array) -> np.ndarray:
    """Which tokens each row may still draw."""
    params = [row.sampling for row in rows]
    return np.array(Draws(params, range(len(rows))).allowed(logits)) > -np.inf


def sample(requests: list[GenerateRequest], logits: mx.array) -> Drawn:
    """One step of rows whose prompt is token 1; `tokens` and `finite` are [rows]."""
    rows = [Row.of(item) for item in requests]
    feed = mx.array([row.ids[-1:] for row in rows])
    drawn = RowSampling(rows, logits.shape[-1]).sample(logits[:, None], feed)
    return replace(drawn, tokens=drawn.tokens[:, 0], finite=drawn.finite[:, 0])


def reference(row: GenerateRequest, logits: mx.array) -> np.ndarray:
    """mlx-lm's chain for one row, [vocab]."""
    params, x = row.sampling, logits - mx.logsumexp(logits, keepdims=True)
    if 0 < params.top_p < 1:
        x = apply_top_p(x[None], params.top_p)[0]
    if params.min_p:
        x = apply_min_p(x[None], params.min_p)[0]
    if 0 < params.top_k < x.size:
        x = apply_top_k(x[None], params.top_k)[0]
    return np.array(x) > -np.inf


parameters = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.3, 1.0, 2.0]),
        "top_p": st.sampled_from([1.0, 0.99, 0.9, 0.5, 0.1]),
        "top_k": st.sampled_from([0, 1, 7, 50, 400]),
        "min_p": st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    }
)


@settings(deadline=None, max_examples=examples(30))
@given(
    st.lists(parameters, min_size=1, max_size=6),
    st.integers(0, 2**31),
    st.sampled_from([0.1, 2.0, 8.0]),
    st.sampled_from([600, 4096]),
)
def test_each_row_keeps_what_mlx_lm_keeps(
    rows: list[dict[str, float]], seed: int, spread: float, vocab: int
) -> None:
    mx.random.seed(seed)
    logits = mx.random.normal((len(rows), vocab)) * spread
    requests = [request(i, [1], **{**row, "temperature": 1.0}) for i, row in enumerate(rows)]
    mine = kept(requests, logits)
    for index, row in enumerate(requests):
        want = reference(row, logits[index])
        # A cumulative sum over another number of terms rounds differently, so that a token
        # exactly on the edge of the nucleus may fall on either side.
        assert (mine[index] != want).sum() <= (1 if row.sampling.top_p < 1 else 0)


@pytest.mark.parametrize("vocab", [12, 2100])
@pytest.mark.parametrize("filters", [{"top_k": 8}, {"min_p": 0.5**4}], ids=["rank", "whole"])
def test_frequencies_are_those_of_the_tempered_distribution(
    filters: dict[str, float], vocab: int
) -> None:
    # Both filters keep the eight best tokens. Those beyond the first twelve are too unlikely.
    logits = np.linspace(-60, -50, vocab)
    logits[:12] = np.log(0.5) * np.array([0, 3.9, 1, 8, 2, 4.1, 0.5, 7, 1.5, 3, 9, 0.2])
    draws, temperature = 6000, 0.7
    rows = [request(i, [1], temperature=temperature, seed=i, **filters) for i in range(draws)]
    tokens = np.array(sample(rows, mx.broadcast_to(mx.array(logits), (draws, vocab))).tokens)
    logits[np.argsort(logits)[:-8]] = -np.inf
    weights = np.exp(logits / temperature)
    want = weights / weights.sum() * draws
    seen = np.bincount(tokens, minlength=vocab)
    assert seen[want == 0].sum() == 0
    statistic = ((seen - want)[want > 0] ** 2 / want[want > 0]).sum()
    # 0.9999 quantile of chi-square with 7 degrees of freedom.
    assert statistic < 29.9


def test_keys_depend_on_seed_choice_and_position_alone() -> None:
    def key(seed: int, choice: int, position: int) -> tuple[int, ...]:
        words = [np.array([x], dtype=np.uint64) for x in (seed, choice, position)]
        return tuple(random_keys(*words)[0].tolist())

    keys = {key(s, c, p) for s in range(10) for c in range(4) for p in range(20)}
    assert len(keys) == 800
    assert key(5, 1, 2) == key(5, 1, 2)


def test_greedy_rows_ignore_their_neighbours() -> None:
    logits = mx.random.normal((3, 64))
    rows = [
        request(1, [1], temperature=0.0, top_p=0.5),
        request(2, [1], temperature=2.0),
        request(3, [1], temperature=0.0),
    ]
    tokens = sample(rows, logits).tokens.tolist()
    best = mx.argmax(logits, axis=-1).tolist()
    assert (tokens[0], tokens[2]) == (best[0], best[2])


def test_typical_p_keeps_the_locally_typical_set_of_its_rows_alone() -> None:
    logits = mx.random.normal((3, 700)) * 2
    rows = [request(i, [1], temperature=1.0, typical_p=p) for i, p in enumerate((0.3, 1.0, 0.8))]
    mine = kept(rows, logits)
    for index, row in enumerate(rows):
        x = np.array(logits[index]).astype(np.float64)
        p = np.exp(x - x.max()) / np.exp(x - x.max()).sum()
        order = np.argsort(np.abs(-np.log(p) - (p * -np.log(p)).sum()))
        mass = row.sampling.typical_p
        count = 700 if mass == 1 else (np.cumsum(p[order]) < mass).sum() + 1
        assert set(np.flatnonzero(mine[index])) == set(order[:count])


MANY_PLACES = [
    {"temperature": 0.0},
    {"temperature": 1.3, "seed": 5, "logprobs": 2},
    {"temperature": 0.8, "top_p": 0.9, "seed": 6, "logprobs": 0},
    {"temperature": 0.8, "top_k": 7, "min_tokens": 3, "stop_ids": [3, 4, 5]},
    {"temperature": 1.0, "logit_bias": ((9, 4.0),)},
]


def test_several_places_draw_what_as_many_steps_do() -> None:
    logits = mx.random.normal((len(MANY_PLACES), 4, 64)) * 2
    requests = [request(i, [1], **changes) for i, changes in enumerate(MANY_PLACES)]
    rows = [Row.of(item) for item in requests]
    fed = mx.ones((len(rows), 4), dtype=mx.uint32)
    together = RowSampling(rows, 64).sample(logits, fed).read()
    for place in range(4):
        single = RowSampling(rows, 64).sample(logits[:, place : place + 1], fed[:, :1]).read()
        assert [outcomes[place] for outcomes in together] == [one for [one] in single]
        for row in rows:
            row.advance()
            row.commit([7])


@pytest.mark.parametrize("kept", [1, 2, 4])
@pytest.mark.parametrize(
    "changes",
    [
        {"frequency_penalty": 1.0, "presence_penalty": 0.5},
        {"repetition_penalty": 1.5},
        {"repetition_penalty": 1.5, "repetition_window": 18},
    ],
)
def test_penalties_of_several_places_are_those_of_as_many_steps(
    changes: dict[str, float], kept: int
) -> None:
    prompt = [i % 7 for i in range(30)]
    rows = [Row.of(request(1, prompt, **changes)), Row.of(request(2, prompt))]
    fed = mx.array([[prompt[-1], 3, 3, 5], [prompt[-1], 1, 2, 3]], dtype=mx.uint32)
    logits = mx.random.normal((2, 4, 64))
    steps = [Row.of(row.request) for row in rows]
    one_by_one, together = RowSampling(steps, 64), RowSampling(rows, 64)
    drawn = together.sample(logits, fed, drafts=fed[:, 1:].tolist()).read()
    together.take([kept, 4])
    for place in range(kept):
        single = one_by_one.sample(logits[:, place : place + 1], fed[:, place : place + 1]).read()
        assert drawn[0][place] == single[0][0]
        for row in steps:
            row.advance()
            row.commit([fed[0, place + 1].item() if place < 3 else 9])
    # What was not kept has left no trace.
    rows[0].advance(kept)
    rows[0].commit(steps[0].ids[-kept:])
    after = mx.random.normal((2, 1, 64))
    feed = mx.array([steps[0].ids[-1:], [1]], dtype=mx.uint32)
    assert together.sample(after, feed).read()[0] == one_by_one.sample(after, feed).read()[0]
