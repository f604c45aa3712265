"""Greedy tokens of batches against mlx-lm's logits for the same text in one forward pass.

A GPU adds numbers up in another order for each shape, so that two tokens that are about as
likely may change places. Each token must be mlx-lm's first, or tie with it.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from tests.core.architectures import KINDS, WINDOW
from tests.core.driver import Driver, request
from tests.gpu.device import GPU, HALF
from tests.gpu.ties import TIES, gaps, loaded

TOKENS = WINDOW + 16
LENGTHS = (1, 5, 16, 17, WINDOW + 1, 3 * WINDOW + 5)

Case = tuple[str, int | None, mx.Dtype]
CASES: list[Case] = [
    ("real", None, mx.bfloat16),
    ("real", None, mx.float32),
    ("real", 4, HALF),
    *((name, None, HALF) for name in KINDS),
    ("gpt_oss", None, HALF),
]


@pytest.mark.parametrize(
    ("name", "bits", "dtype"), CASES, ids=[f"{n}-{b}-{d}" for n, b, d in CASES]
)
def test_each_token_of_a_batch_is_mlx_lms_or_ties_with_it(
    name: str, bits: int | None, dtype: mx.Dtype
) -> None:
    """Rows that start together, padded, and rows that join while others decode."""
    ours, theirs = loaded(name, bits, dtype)
    chance = np.random.default_rng(len(name))
    prompts = {k: chance.integers(3, 260, n).tolist() for k, n in enumerate(LENGTHS)}
    driver = Driver(ours, prefill_chunk=32)
    for key, ids in prompts.items():
        driver.submit(request(key, ids, max_tokens=TOKENS))
        driver.turns(8 if key > 2 else 0)
    driver.run()
    assert driver.failed == {}
    away = {key: gaps(theirs, ids, driver.tokens[key]) for key, ids in prompts.items()}
    for key, each in away.items():
        assert each.max() < TIES[dtype], f"prompt of {len(prompts[key])} tokens: {each}"
    assert (np.concatenate(list(away.values())) == 0).mean() > 0.9


def test_a_long_prompt_in_chunks_goes_on_as_mlx_lm_says() -> None:
    """Past the sizes at which a GPU changes its kernels, beside a row that decodes."""
    ours, theirs = loaded("real", 4, HALF)
    chance = np.random.default_rng(2)
    length, chunk = (1500, 512) if GPU else (300, 128)
    prompts = {0: chance.integers(3, 260, 9).tolist(), 1: chance.integers(3, 260, length).tolist()}
    driver = Driver(ours, prefill_chunk=chunk)
    for key, length in ((0, 60), (1, 12)):
        driver.submit(request(key, prompts[key], max_tokens=length))
        driver.turns(4)
    driver.run()
    for key, ids in prompts.items():
        assert gaps(theirs, ids, driver.tokens[key]).max() < TIES[HALF]


def test_a_wrong_token_is_no_tie() -> None:
    """What the tests above would say of one that does not belong there."""
    _, theirs = loaded("real", None, HALF)
    chance = np.random.default_rng(3)
    prompt: list[Any] = chance.integers(3, 260, 20).tolist()
    assert np.median(gaps(theirs, prompt, chance.integers(3, 260, 30).tolist())) > 1
