"""Greedy tokens of our batches against mlx-lm's single requests, for every kind of cache."""

from __future__ import annotations

import random
from functools import cache
from itertools import product
from pathlib import Path

import mlx.core as mx
import pytest
from mlx_lm.generate import generate_step
from mlx_lm.utils import load_model as load_with_mlx_lm

from tests.amount import usually
from tests.core.architectures import ARCHITECTURES, SCALES, UNBATCHABLE, WINDOW
from tests.core.driver import Driver, load, request
from tests.models import tiny_model_dir

TOKENS = WINDOW + 16
CHUNK = 16
# One for each kind of cache that batches, and one whose rows run alone.
USUAL = ("llama", "deepseek_v3", "gemma3_text", "mamba", "gemma2")


@cache
def directory(name: str, bits: int | None) -> Path:
    return tiny_model_dir(ARCHITECTURES[name], bits=bits, scale=SCALES.get(name, 3.0), seed=7)


def expected(name: str, bits: int | None, prompts: dict[int, list[int]]) -> dict[int, list[int]]:
    """What mlx-lm generates for each prompt alone."""
    model, _ = load_with_mlx_lm(directory(name, bits))
    return {
        key: [
            int(token)
            for token, _ in generate_step(
                mx.array(ids), model, max_tokens=TOKENS, prefill_step_size=CHUNK
            )
        ]
        for key, ids in prompts.items()
    }


def prompts_for(seed: int) -> dict[int, list[int]]:
    """Lengths around a chunk and a window, one token, and several of both."""
    rng = random.Random(seed)
    lengths = [1, 2, 5, CHUNK, CHUNK + 1, WINDOW, WINDOW + 1, 3 * WINDOW + 5]
    return {
        key: [rng.randrange(3, 260) for _ in range(length)] for key, length in enumerate(lengths)
    }


@pytest.mark.parametrize(
    ("name", "bits"),
    usually(
        {("llama", 4), *product(USUAL, [None])}.__contains__,
        product(ARCHITECTURES, (None, 4)),
    ),
)
def test_mixed_batch_equals_single_requests(name: str, bits: int | None) -> None:
    """Rows join midway, leave midway, and join after a window has rotated."""
    prompts = prompts_for(seed=len(name))
    want = expected(name, bits, prompts)
    model = load(directory(name, bits))
    assert model.info.batchable == (name not in UNBATCHABLE)
    driver = Driver(model, prefill_chunk=CHUNK)
    order = list(prompts)
    random.Random(name).shuffle(order)
    for position, key in enumerate(order):
        driver.submit(request(key, prompts[key], max_tokens=TOKENS))
        driver.turns(1 if position % 3 else WINDOW // 2)
        if position == 4:
            driver.submit(request(100, prompts[key], max_tokens=TOKENS))
            driver.turns(3)
            driver.scheduler.cancel(100)
    driver.run()
    assert driver.failed == {}
    for key, ids in prompts.items():
        assert driver.tokens[key] == want[key], f"prompt of {len(ids)} tokens"


@pytest.mark.parametrize(
    "name",
    usually(
        {"llama", "gemma3_text", "jamba"}.__contains__,
        ["llama", "gemma3_text", "gpt_oss", "deepseek_v3", "jamba"],
    ),
)
def test_prompts_that_come_together_are_prefilled_together(name: str) -> None:
    """Padded where the caches know padding, also past a window; one by one where not."""
    rng = random.Random(3)
    lengths = [2, 3, 9, 11, 14, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW, 2 * WINDOW + 3]
    prompts = {k: [rng.randrange(3, 260) for _ in range(n)] for k, n in enumerate(lengths)}
    want = expected(name, None, prompts)
    model = load(directory(name, None))
    assert model.paddable == (name != "jamba")
    driver = Driver(model, prefill_chunk=160)
    driver.submit(*(request(key, ids, max_tokens=TOKENS) for key, ids in prompts.items()))
    driver.run()
    assert driver.tokens == want
