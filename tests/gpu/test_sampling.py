"""Sampling with a large vocabulary on the device, against numpy's float64."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from llguidance.numpy import allocate_token_bitmask

from budmlx.core.sample.candidates import most_likely
from budmlx.core.sample.draw import exponentials, random_keys
from budmlx.core.sample.filters import limits_of
from budmlx.core.sample.grammar import _expanded
from budmlx.core.sample.numeric import fused
from tests.core.driver import request
from tests.gpu.device import ROWS, VOCAB
from tests.gpu.rows import PROMPT, drawn, flat, kept, log_softmax, peaked, reference, sample
from tests.gpu.rows import tokens_of as tokens

DTYPES = [mx.float32, mx.bfloat16, mx.float16]
FILTERS: list[dict[str, Any]] = [
    {},
    {"top_p": 0.9},
    {"top_k": 50},
    {"top_k": 1000},
    {"min_p": 0.05},
    {"typical_p": 0.9},
    {"top_p": 0.95, "top_k": 40, "min_p": 0.02},
    {"typical_p": 0.8, "top_p": 0.9},
]
# Of every parameter that decides what is drawn.
PARAMETERS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.7},
    *FILTERS[1:],
    {"frequency_penalty": 0.7},
    {"presence_penalty": 0.5, "temperature": 0.0},
    {"repetition_penalty": 1.3, "temperature": 0.0},
    {"repetition_penalty": 1.2, "repetition_window": 3},
    {"logit_bias": ((7, 3.0), (9, -100.0))},
    {"logprobs": 3},
    {"min_tokens": 4, "stop_ids": [5, 6]},
]


@pytest.mark.parametrize("shape", [peaked, flat], ids=["peaked", "flat"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_filters_keep_what_numpy_keeps(dtype: mx.Dtype, shape: Any) -> None:
    """Up to rounding at the boundary, where many tokens are equally likely in half precision."""
    logits = shape(ROWS, VOCAB, dtype)
    host = np.array(logits.astype(mx.float32))
    for filters in FILTERS:
        for mine, row in zip(kept(drawn(ROWS, **filters), logits), host, strict=True):
            allowed, p = reference(row, filters)
            assert abs(p[mine].sum() - p[allowed].sum()) < 5e-3, filters
            if set(filters) <= {"top_k"}:
                assert (mine == allowed).all()


@pytest.mark.parametrize("filters", [{}, {"top_p": 0.9999}, {"top_k": 6}], ids=str)
def test_tokens_are_drawn_as_often_as_they_are_likely(filters: dict[str, Any]) -> None:
    count, vocab = 8192, 2048
    row = np.full(vocab, -30.0, np.float32)
    row[100:700:100] = [2.0, 1.5, 1.0, 0.5, 0.0, -1.0]
    logits = mx.broadcast_to(mx.array(row), (count, vocab))
    seen = np.bincount(tokens(drawn(count, **filters), logits), minlength=vocab) / count
    want = np.exp(log_softmax(row[None]))[0]
    assert np.abs(seen - want).max() < 0.02


def test_the_tail_of_a_large_vocabulary_is_drawn_too() -> None:
    count = 64 * ROWS
    row = np.zeros(VOCAB, np.float32)
    row[5] = np.log(VOCAB)  # as likely as all others together
    logits = mx.broadcast_to(mx.array(row), (ROWS, VOCAB))
    found = [
        token
        for begin in range(0, count, ROWS)
        for token in tokens(drawn(ROWS, first_seed=begin), logits)
    ]
    others = np.array([token for token in found if token != 5])
    assert abs(len(others) / count - 0.5) < 5 * (0.25 / count) ** 0.5
    assert len(set(others.tolist())) > 0.9 * len(others)
    assert abs(others.mean() / VOCAB - 0.5) < 5 * (1 / 12 / len(others)) ** 0.5


def test_random_numbers_are_those_of_the_cpu() -> None:
    numbers = np.arange(ROWS, dtype=np.uint64)
    keys = random_keys(numbers, numbers * 0, numbers * 3)
    ids = mx.arange(VOCAB, dtype=mx.uint32)[None]
    here = np.array(exponentials(keys, ids))
    with mx.stream(mx.cpu):
        there = np.array(exponentials(keys, ids))
    assert np.allclose(here, there, rtol=1e-5, atol=0)
    assert here.min() > 0
    assert abs(here.mean() - 1) < 0.02


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_a_row_draws_the_same_alone_as_in_company(dtype: mx.Dtype) -> None:
    for seed in range(3):
        logits = peaked(len(PARAMETERS), VOCAB, dtype, seed)
        rows = [
            request(i, PROMPT, **{"temperature": 1.0, "seed": i, **changes})
            for i, changes in enumerate(PARAMETERS)
        ]
        together = tokens(rows, logits)
        alone = [tokens([row], logits[i : i + 1])[0] for i, row in enumerate(rows)]
        assert together == alone


def test_penalties_and_biases_are_computed_in_float32() -> None:
    """Tokens of the reply are planted near the top, so that the penalty decides."""
    logits = peaked(ROWS, VOCAB, mx.bfloat16)
    host = np.array(logits.astype(mx.float32))
    best = np.argsort(-host, axis=-1)[:, :4]
    changes = [
        {"frequency_penalty": 1.5},
        {"presence_penalty": 1.5},
        {"repetition_penalty": 1.4},
        {"logit_bias": ((int(best[3, 1]), 2.5), (int(best[3, 0]), -100.0))},
    ]
    want = []
    rows = []
    for i in range(4):
        generated = [int(best[i, 0]), int(best[i, 0]), int(best[i, 1])]
        rows.append(
            request(i, PROMPT, **{"temperature": 0.0, "emitted_ids": generated, **changes[i]})
        )
        counts = np.bincount(generated, minlength=VOCAB)
        x = host[i].astype(np.float64)
        params = rows[-1].sampling
        seen = np.isin(np.arange(VOCAB), [*PROMPT, *generated])
        x = np.where(
            seen,
            np.where(x < 0, x * params.repetition_penalty, x / params.repetition_penalty),
            x,
        )
        x -= params.frequency_penalty * counts + params.presence_penalty * (counts > 0)
        for token, bias in params.logit_bias:
            x[token] += -np.inf if bias == -100 else bias
        want.append(int(x.argmax()))
    assert tokens(rows, logits[:4]) == want
    assert want != best[:4, 0].tolist()


def test_stops_are_banned_until_there_are_enough_tokens() -> None:
    logits = peaked(1, VOCAB)
    [best] = tokens(drawn(1, temperature=0.0), logits)
    early = drawn(1, temperature=0.0, min_tokens=2, stop_ids=[best])
    assert tokens(early, logits) != [best]
    later = drawn(1, temperature=0.0, min_tokens=2, stop_ids=[best], emitted_ids=[1, 2])
    assert tokens(later, logits) == [best]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_logprobs_are_those_of_the_whole_distribution(dtype: mx.Dtype) -> None:
    logits = peaked(ROWS, VOCAB, dtype)
    host = log_softmax(np.array(logits.astype(mx.float32)))
    for i, [outcome] in enumerate(sample(drawn(ROWS, logprobs=20), logits).read()):
        assert outcome.logprob == pytest.approx(host[i, outcome.token], abs=1e-3)
        best = np.sort(host[i])[::-1][:20]
        assert [value for _, value in outcome.top] == pytest.approx(best.tolist(), abs=1e-3)
        for token, value in outcome.top:
            assert value == pytest.approx(host[i, token], abs=1e-3)


def test_the_most_likely_come_from_the_best_blocks() -> None:
    logits = peaked(ROWS, VOCAB)
    ids, values = most_likely(logits, 512)
    exact = mx.sort(logits, axis=-1)[:, -512:]
    assert mx.array_equal(mx.sort(values, axis=-1), exact)
    assert mx.array_equal(mx.take_along_axis(logits, ids, axis=-1), values)


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_rows_without_a_number_to_draw_say_so(dtype: mx.Dtype) -> None:
    """What is drawn there must still be in the vocabulary: it is fed to the model."""
    x = np.zeros((4, VOCAB), np.float32)
    x[0], x[1, 7], x[2, :], x[3, 9] = -np.inf, np.nan, np.nan, np.inf
    for changes in PARAMETERS:
        result = sample(drawn(4, **changes), mx.array(x).astype(dtype))
        assert result.finite.tolist() == [[False]] * 4, changes
        assert all(0 <= token < VOCAB for [token] in result.tokens.tolist())


def test_masks_of_grammars_allow_the_tokens_of_their_bits() -> None:
    chance = np.random.default_rng(3)
    words = allocate_token_bitmask(ROWS, VOCAB).view(np.uint32)
    words[:] = chance.integers(0, 2**32, words.shape, dtype=np.uint32)
    allowed = np.array(fused(_expanded, VOCAB)(mx.array(words)))
    want = np.unpackbits(words.view(np.uint8), axis=-1, bitorder="little")[:, :VOCAB]
    assert (allowed == want.astype(bool)).all()


def test_no_number_of_64_bits_reaches_the_device() -> None:
    _, limits = limits_of([item.sampling for item in drawn(2, top_p=0.9, top_k=5, min_p=0.1)])
    assert not [array.dtype for array in limits.arrays if "64" in str(array.dtype)]
    one = np.array([2**64 - 1], np.uint64)
    assert random_keys(one, one, one).dtype == mx.uint32
