"""Every parameter of every row against a plain numpy loop, in batches that mix them all."""

from __future__ import annotations

import random
from itertools import product
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.sample_utils import make_logits_processors

from budmlx.core.model.model import Model
from budmlx.core.row import Row
from budmlx.core.sample.penalties import Penalties
from budmlx.core.sample.sampling import RowSampling
from budmlx.protocol import GenerateRequest
from tests.amount import usually
from tests.core.architectures import ARCHITECTURES
from tests.core.driver import Driver, load, request
from tests.models import tiny_model_dir

LENGTH = 24


@pytest.fixture(scope="module")
def model() -> Model:
    return load()


def raw_logits(model: Model, ids: list[int]) -> np.ndarray:
    """The model's logits after `ids`, float64 [vocab]."""
    return np.array(model(mx.array([ids]), model.new_cache())[0, -1]).astype(np.float64)


def adjusted(row: GenerateRequest, ids: list[int], logits: np.ndarray) -> np.ndarray:
    """Bias, repetition, presence and frequency, minimum length: as defined, one by one."""
    x, generated, params = logits.copy(), ids[len(row.prompt_ids) :], row.sampling
    for token, value in params.logit_bias:
        x[token] += -np.inf if value == -100 else value
    for token in set(ids[-params.repetition_window :]):
        penalty = params.repetition_penalty
        x[token] = x[token] * penalty if x[token] < 0 else x[token] / penalty
    for token in set(generated):
        x[token] -= params.presence_penalty + params.frequency_penalty * generated.count(token)
    if len(generated) < row.min_tokens:
        x[row.stop_ids] = -np.inf
    return x


def greedy(model: Model, row: GenerateRequest) -> list[int]:
    """What a row must generate at temperature 0."""
    ids = list(row.prompt_ids)
    while True:
        ids.append(int(np.argmax(adjusted(row, ids, raw_logits(model, ids)))))
        tokens = ids[len(row.prompt_ids) :]
        if ids[-1] in row.stop_ids or len(tokens) == row.max_tokens:
            return tokens


def parameters(rng: random.Random) -> dict[str, Any]:
    return {
        "frequency_penalty": rng.choice([0.0, 0.7, -0.6]),
        "presence_penalty": rng.choice([0.0, 1.5, -1.1]),
        "repetition_penalty": rng.choice([1.0, 1.3, 0.8]),
        "repetition_window": rng.choice([0, 1, 5, 12]),
        "logit_bias": tuple(
            (token, rng.choice([-3.0, 4.0, -100.0]))
            for token in rng.sample(range(512), rng.choice([0, 3, 40]))
        ),
        "min_tokens": rng.choice([0, 6, LENGTH]),
        "stop_ids": rng.sample(range(512), 60),
        "max_tokens": LENGTH,
    }


@pytest.mark.parametrize("seed", usually(lambda seed: seed < 2, range(6)))
def test_rows_with_different_parameters_share_a_batch(model: Model, seed: int) -> None:
    rng = random.Random(seed)
    rows = [
        request(
            key, [rng.randrange(3, 300) for _ in range(rng.randrange(1, 30))], **parameters(rng)
        )
        for key in range(8)
    ]
    driver = Driver(model, prefill_chunk=16)
    for row in rows:
        driver.submit(row)
        driver.turns(rng.randrange(3))
    driver.run()
    assert {row.id: driver.tokens[row.id] for row in rows} == {
        row.id: greedy(model, row) for row in rows
    }


def test_counts_stay_with_rows_that_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not made anew of all that a row has said, and count what nobody has read yet."""
    parameters = {"frequency_penalty": 0.5, "repetition_penalty": 1.3, "repetition_window": 3}
    first = Row.of(request(1, [7, 7, 9], emitted_ids=[4, 9], **parameters))
    logits = mx.zeros((2, 16))
    alone = RowSampling([first], 16)
    fed = alone.sample(logits[:1, None], mx.array([[9]])).tokens[:, 0]
    first.advance()
    alone.release()
    monkeypatch.delattr(Row, "generated")
    both = Penalties([Row.of(request(2, [3])), first], [1], 16)
    adjusted = both.apply(logits + 1.0, mx.concatenate([mx.array([3]), fed.astype(mx.int32)]), 0)
    token = fed.item()
    want = np.ones((2, 16))
    want[1, [9, 4, token]] /= 1.3
    for generated in (4, 9, token):
        want[1, generated] -= 0.5
    assert np.allclose(np.array(adjusted), want)


def test_penalties_are_those_of_mlx_lm(model: Model) -> None:
    """Our reference above, held against mlx-lm's own processors."""
    ids = [5, 9, 9, 40, 7, 7, 7]
    row = request(1, [], repetition_penalty=1.4, presence_penalty=0.5, frequency_penalty=0.25,
                  logit_bias=((3, 2.0), (7, -1.0)))  # fmt: skip
    logits = raw_logits(model, ids)
    want = mx.array(logits[None].astype(np.float32))
    processors = make_logits_processors({3: 2.0, 7: -1.0}, 1.4, 20, 0.5, 20, 0.25, 20)
    for processor in processors:
        want = processor(mx.array(ids), want)
    assert np.allclose(np.array(want[0]), adjusted(row, ids, logits), atol=1e-4)


def test_logprobs_are_of_the_raw_distribution(model: Model) -> None:
    rows = [
        request(1, [5, 6], temperature=0.0, logprobs=0),
        request(2, [7, 8, 9], temperature=1.5, top_k=20, seed=3, logprobs=5),
        request(3, [7, 8], temperature=0.0),
        request(4, [4], frequency_penalty=2.0, logprobs=20, logit_bias=((11, 30.0),)),
    ]
    driver = Driver(model)
    driver.submit(*rows)
    driver.run()
    reported = [token for frame in driver.frames for token in frame.tokens]
    for row in rows:
        ids = list(row.prompt_ids)
        for token in (t for t in reported if t.id == row.id):
            x = raw_logits(model, ids)
            logprobs = x - np.log(np.exp(x - x.max()).sum()) - x.max()
            if row.sampling.logprobs is None:
                assert token.logprob is None and token.top == []
            else:
                assert token.logprob == pytest.approx(logprobs[token.token], abs=1e-4)
                best = np.sort(logprobs)[::-1][: row.sampling.logprobs]
                assert [value for _, value in token.top] == pytest.approx(best, abs=1e-4)
                assert all(logprobs[i] == pytest.approx(v, abs=1e-4) for i, v in token.top)
            ids.append(token.token)


def test_a_row_without_a_token_to_draw_fails_alone(model: Model) -> None:
    want = greedy(model, request(1, [5, 6, 7], max_tokens=LENGTH))
    driver = Driver(model)
    everything = {"logit_bias": tuple((token, -100.0) for token in range(512))}
    driver.submit(
        request(1, [5, 6, 7], max_tokens=LENGTH),
        request(2, [5, 6], **everything),
        request(3, [5, 6], temperature=1.0, top_p=0.9, **everything),
    )
    driver.run()
    assert driver.tokens[1] == want
    assert {key: row.code for key, row in driver.failed.items()} == {
        2: "non_finite_logits",
        3: "non_finite_logits",
    }


@pytest.mark.parametrize(
    ("name", "prompt"),
    usually(
        lambda case: len(case[1]) > 1 or case[0] == "llama",
        product(["llama", "gemma3_text", "mamba", "falcon_h1", "llama4"], [[7], [5] * 40]),
    ),
)
def test_choices_fork_from_one_prefill(name: str, prompt: list[int]) -> None:
    model = load(tiny_model_dir(ARCHITECTURES[name], scale=3.0, seed=7))
    sampling = {"temperature": 1.0, "seed": 5, "max_tokens": 12}
    want = []
    for choice in range(4):
        driver = Driver(model)
        driver.submit(request(1, prompt, choice=choice, **sampling))
        driver.run()
        want.append(driver.tokens[1])
    driver = Driver(model, prefill_chunk=16)
    driver.submit(request(9, [3] * 50, max_tokens=40))
    driver.turns(8)
    driver.submit(*(request(c, prompt, choice=c, fork=1, **sampling) for c in range(4)))
    driver.turn()
    assert sum(len(p.rows) for p in driver.prompts) in (0, 4)
    assert len(driver.prompts) <= 1
    driver.scheduler.cancel(2)
    driver.run()
    assert [driver.tokens[c] for c in (0, 1, 3)] == [want[0], want[1], want[3]]
    assert len(set(map(tuple, want))) == 4


@pytest.mark.parametrize("window", [1, 2, 3, 4, 7])
def test_a_token_is_free_once_it_has_left_the_repetition_window(model: Model, window: int) -> None:
    """The window may be as long as the prompt, and the token that is fed is in it."""
    prompt = [7, 8, 9]
    row = request(1, prompt, repetition_penalty=100.0, repetition_window=window, max_tokens=8,
                  logit_bias=((7, 90.0),))  # fmt: skip
    driver = Driver(model)
    driver.submit(row)
    driver.run()
    assert driver.tokens[1] == greedy(model, row)
    # The first prompt token is the last of a window that ends `window` tokens after it.
    assert driver.tokens[1].index(7) == max(window + 1 - len(prompt), 0)
