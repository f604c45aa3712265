"""Projections of memory against what MLX really takes."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import pytest

from tests.core.architectures import ARCHITECTURES, BASE
from tests.core.driver import Driver, load, request
from tests.models import tiny_model_dir

WIDE = {**BASE, "model_type": "llama", "num_hidden_layers": 4, "max_position_embeddings": 16384}


@pytest.mark.parametrize(
    "lengths",
    [
        [2000] + [60] * 15,
        pytest.param([450] * 8, marks=pytest.mark.long),
        pytest.param([4000] + [60] * 15, marks=pytest.mark.long),
        pytest.param([900] * 8, marks=pytest.mark.long),
        pytest.param([3000], marks=pytest.mark.long),
    ],
)
def test_peak_memory_stays_within_the_projection(lengths: list[int]) -> None:
    model = load(tiny_model_dir(WIDE))
    driver = Driver(model, prefill_chunk=256)
    base = mx.get_active_memory() - model.memory.weights
    mx.clear_cache()
    mx.reset_peak_memory()
    driver.submit(*(request(k, [5] * n, max_tokens=40) for k, n in enumerate(lengths)))
    projected = 0
    while driver.scheduler.busy:
        driver.turn()
        groups = [group.lengths for group in driver.groups]
        groups += [[prompt.length] for prompt in driver.prompts]
        projected = max(projected, model.memory.total(groups, 256))
    assert mx.get_peak_memory() - base <= projected


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "mamba", "falcon_h1", "deepseek_v3"])
def test_row_bytes_are_those_of_the_cache(name: str) -> None:
    model = load(tiny_model_dir(ARCHITECTURES[name]))
    cache = model.new_cache()
    mx.eval(model(mx.array([[5] * 300]), cache))
    actual = sum(entry.nbytes for entry in cache)
    assert actual <= model.memory.row(300) <= 2.5 * actual + 2**16


def test_the_longest_row_is_the_longest_that_fits() -> None:
    memory = load().memory
    limit = memory.total([[3000]], 64)
    longest = replace(memory, limit=limit).longest_row(8192, 64)
    assert memory.total([[longest]], 64) <= limit < memory.total([[longest + 1]], 64)
