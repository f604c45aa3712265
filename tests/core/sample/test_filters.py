"""Every filter and their mixtures against loops over numpy's float64: what is kept, how likely."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budmlx.core.sample.draw import Draws, random_keys
from budmlx.core.sample.filters import BLOCKS
from budmlx.protocol import GenerateRequest
from tests.amount import examples, usually
from tests.core.driver import request
from tests.core.sample.test_sampling import kept, sample

MIXTURES: list[dict[str, Any]] = [
    {},
    {"top_p": 0.8},
    {"top_k": 7},
    {"min_p": 0.1},
    {"typical_p": 0.6},
    {"top_p": 0.9, "top_k": 11},
    {"top_p": 0.9, "min_p": 0.05},
    {"top_k": 12, "min_p": 0.05},
    {"typical_p": 0.8, "top_p": 0.7},
    {"typical_p": 0.9, "top_p": 0.9, "top_k": 9, "min_p": 0.02},
]
# Those of which the usual run draws tokens: nothing filtered, one filter of each way, and all.
DRAWN = [MIXTURES[0], MIXTURES[1], MIXTURES[2], MIXTURES[4], MIXTURES[-1]]


def probabilities(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def reference(row: GenerateRequest, logits: np.ndarray) -> np.ndarray:
    """Logits, float64 [vocab], with -inf for what a row must not draw."""
    params, x = row.sampling, logits.astype(np.float64)
    if params.typical_p < 1:
        p = probabilities(x)
        with np.errstate(divide="ignore", invalid="ignore"):
            away = np.abs(-np.log(p) + np.nansum(p * np.log(p)))
        nearer = np.array([p[away < distance - 1e-9].sum() for distance in away])
        x = np.where(nearer < params.typical_p, x, -np.inf)
    p = probabilities(x)
    keep = x > -np.inf
    if params.top_p < 1:
        keep &= np.array([p[p > each].sum() for each in p]) < params.top_p
    if params.min_p > 0:
        keep &= p >= p.max() * params.min_p
    if params.top_k > 0:
        best_first = np.lexsort((np.arange(len(x)), -x))
        keep[best_first[params.top_k :]] = False
    return np.where(keep, x, -np.inf)


@pytest.mark.parametrize("vocab", [40, 2048])
@pytest.mark.parametrize("changes", MIXTURES, ids=str)
def test_the_filters_keep_what_the_reference_keeps(changes: dict[str, Any], vocab: int) -> None:
    """Logits on a grid, so that many are equal."""
    generator = np.random.default_rng(vocab + 1)
    logits = np.round(generator.normal(size=(12, vocab)) * 6) / 4
    logits[3:6, ::3] = -np.inf
    rows = [request(i, [1], temperature=0.7, **changes) for i in range(12)]
    mine = kept(rows, mx.array(logits.astype(np.float32)))
    for i, row in enumerate(rows):
        assert (mine[i] == (reference(row, logits[i]) > -np.inf)).all()


@settings(deadline=None, max_examples=examples(25))
@given(
    st.integers(0, 2**31),
    st.sampled_from([0.0, 0.5, 6.0, 30.0, -300.0]),
    st.floats(0.01, 0.999),
    st.integers(1, 700),
)
def test_logits_that_differ_by_one_digit_have_their_order(
    seed: int, middle: float, top_p: float, top_k: int
) -> None:
    """A thousand neighbouring floats: the boundary falls between two of them."""
    start, steps = np.float32(middle), np.arange(1000, dtype=np.int32)
    ladder = (start.view(np.int32) + steps).view(np.float32) if middle else steps * np.float32(1e-6)
    logits = np.random.default_rng(seed).permutation(ladder)
    best_first = np.sort(logits)[::-1]
    before = np.cumsum(probabilities(best_first.astype(np.float64)))
    rows = [request(1, [1], top_k=top_k), request(2, [1], top_p=top_p)]
    mine = kept(rows, mx.array(np.stack([logits, logits])))
    for kept_, count, tolerance in zip(
        mine, (top_k, (before < top_p).sum() + 1), (0, 1), strict=True
    ):
        assert abs(kept_.sum() - count) <= tolerance
        assert kept_.all() or logits[kept_].min() > logits[~kept_].max()


@pytest.mark.parametrize("changes", usually(DRAWN.__contains__, MIXTURES), ids=str)
def test_frequencies_are_those_of_what_is_kept_by_temperature(changes: dict[str, Any]) -> None:
    draws, vocab = 10_000, 48
    logits = np.random.default_rng(4).normal(size=vocab).astype(np.float32) * 2
    for temperature in (0.6, 1.0, 1.7):
        row = request(0, [1], temperature=temperature, **changes)
        want = probabilities(reference(row, logits) / temperature) * draws
        tokens = many(row, logits, draws)
        seen = np.bincount(tokens, minlength=vocab)
        assert seen[want == 0].sum() == 0
        # Rare tokens together are one class.
        common = want >= 8
        seen = np.append(seen[common], seen[~common].sum())
        want = np.append(want[common], want[~common].sum())
        seen, want = seen[want > 0], want[want > 0]
        freedom = len(want) - 1
        # Beyond the 0.9999 quantile of chi-square, by its normal approximation.
        assert ((seen - want) ** 2 / want).sum() < freedom + 3.9 * (2 * freedom) ** 0.5 + 10


@pytest.mark.parametrize("changes", [{}, {"top_p": 0.9999}, {"top_k": 60}], ids=str)
def test_a_long_tail_is_drawn_in_proportion(changes: dict[str, Any]) -> None:
    """Four thousand tokens of 0.005 % each beside one of 80 %, and some much rarer ones."""
    vocab, draws = 4100, 3000
    logits = np.full(vocab, np.log(5e-5), dtype=np.float32)
    logits[-100:] = np.log(1e-9)
    logits[777] = np.log(0.8)
    row = request(0, [1], temperature=1.0, **changes)
    tokens = many(row, logits, draws)
    p = probabilities(reference_of_tail(row, logits))
    classes = np.arange(vocab) // 410
    classes[777] = 10
    want = np.bincount(classes, p) * draws
    seen = np.bincount(classes[tokens], minlength=11)
    assert seen[want == 0].sum() == 0
    seen, want = seen[want > 0], want[want > 0]
    # 0.9999 quantile of chi-square with 10 degrees of freedom.
    assert ((seen - want) ** 2 / want).sum() < 35.6


def reference_of_tail(row: GenerateRequest, logits: np.ndarray) -> np.ndarray:
    if not row.sampling.top_k:
        # The rarest are dropped or too rare to be seen.
        return np.where(logits < np.log(1e-8), -np.inf, logits).astype(np.float64)
    return reference(request(0, [1], top_k=row.sampling.top_k), logits)


def many(row: GenerateRequest, logits: np.ndarray, draws: int) -> np.ndarray:
    """Tokens that rows like this draw with so many keys."""
    ones = np.ones(draws, dtype=np.uint64)
    keys = random_keys(ones * np.uint64(5), ones * np.uint64(0), np.arange(draws, dtype=np.uint64))
    tokens = []
    for begin in range(0, draws, 500):
        count = min(500, draws - begin)
        draws_ = Draws([row.sampling] * count, range(count))
        same = mx.broadcast_to(mx.array(logits), (count, len(logits)))
        tokens.append(np.array(draws_.draw(same, keys[begin : begin + count], None)))
    return np.concatenate(tokens)


parameters = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.5, 1.0, 2.0]),
        "top_p": st.sampled_from([1.0, 0.95, 0.3]),
        "top_k": st.sampled_from([0, 1, 9, 70, 600]),
        "min_p": st.sampled_from([0.0, 0.05]),
        "typical_p": st.sampled_from([1.0, 0.8]),
        "frequency_penalty": st.sampled_from([0.0, 0.4]),
        "repetition_penalty": st.sampled_from([1.0, 1.3]),
        "logit_bias": st.sampled_from([((3, 0.0), (77, 0.0)), ((3, 2.5), (77, -1.1))]),
        "seed": st.integers(0, 2**64 - 1),
        "choice": st.integers(0, 3),
        "logprobs": st.sampled_from([None, 3]),
    }
)


@settings(deadline=None, max_examples=examples(30))
@given(
    st.lists(parameters, min_size=2, max_size=7),
    st.integers(0, 2**31),
    st.sampled_from([0.2, 3.0]),
    st.sampled_from([100, 2 * BLOCKS[0] * 16 + 5]),
    st.sampled_from([mx.float32, mx.bfloat16, mx.float16]),
)
def test_a_row_draws_the_same_token_in_any_company(
    rows: list[dict[str, Any]], seed: int, spread: float, vocab: int, dtype: mx.Dtype
) -> None:
    mx.random.seed(seed)
    logits = (mx.random.normal((len(rows), vocab)) * spread).astype(dtype)
    requests = [request(i, [1], **row) for i, row in enumerate(rows)]
    together = sample(requests, logits)
    alone = [sample([row], logits[i : i + 1]) for i, row in enumerate(requests)]
    assert together.tokens.tolist() == [each.tokens.item() for each in alone]
    pair = sample(requests[:2], logits[:2])
    assert pair.tokens.tolist() == together.tokens.tolist()[:2]


def test_company_does_not_round_what_a_penalty_decides() -> None:
    """Two tokens whose order half precision would lose once one of them is penalised."""
    logits = np.full((2, 64), -5.0, dtype=np.float32)
    logits[:, 1], logits[:, 9] = 20.0, 19.875
    half = mx.array(logits).astype(mx.bfloat16)
    penalised = request(0, [1], repetition_penalty=1.005)
    neighbour = request(1, [1])
    alone = sample([penalised], half[:1]).tokens.tolist()
    assert alone == [1] and 20 / 1.005 > 19.875
    assert sample([penalised, neighbour], half).tokens.tolist() == [1, 1]
    biased = request(2, [1], logit_bias=((9, 0.13),))
    assert sample([biased], half[:1]).tokens.tolist() == [9]
    assert sample([neighbour, biased], half).tokens.tolist() == [1, 9]
    assert sample([penalised, biased], half).tokens.tolist() == [1, 9]


@pytest.mark.parametrize("changes", usually(DRAWN.__contains__, MIXTURES), ids=str)
def test_a_similar_model_draws_the_same_token_as_often_as_can_be(changes: dict[str, Any]) -> None:
    """With a row's own key, as a draft model would: what they share decides."""
    generator = np.random.default_rng(2)
    logits = generator.normal(size=400).astype(np.float32) * 2
    similar = (logits + generator.normal(size=400) * 0.25).astype(np.float32)
    row = request(0, [1], temperature=1.0, **changes)
    agreed = (many(row, logits, 4000) == many(row, similar, 4000)).mean()
    p, q = (probabilities(reference(row, x)) for x in (logits, similar))
    shared = np.minimum(p, q).sum()
    # What any coupling without communication can promise is shared / (2 - shared).
    assert agreed > shared / (2 - shared) - 0.03
