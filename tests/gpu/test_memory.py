"""Memory: the functions by which budmlx counts and limits it, and what a load takes."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import pytest

from budmlx.core.model.memory_policy import DeviceMemory
from tests.core.architectures import ARCHITECTURES, BASE
from tests.core.driver import Driver, load, request
from tests.gpu.device import GPU
from tests.models import tiny_model_dir

MIB = 2**20
LONG = 8000 if GPU else 700
WIDE: dict[str, Any] = {
    **BASE,
    "model_type": "llama",
    "num_hidden_layers": 4,
    "hidden_size": 256,
    "intermediate_size": 512,
    "max_position_embeddings": 16384,
}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    gc.collect()
    mx.clear_cache()
    mx.reset_peak_memory()
    yield
    mx.clear_cache()


def test_what_is_freed_is_unused_until_it_is_given_back() -> None:
    active, unused = mx.get_active_memory(), mx.get_cache_memory()
    x = mx.zeros((16, MIB))
    mx.eval(x)
    assert mx.get_active_memory() - active == pytest.approx(64 * MIB, rel=0.1)
    assert mx.get_peak_memory() >= active + 64 * MIB
    del x
    assert mx.get_active_memory() - active < MIB
    if GPU:  # On a CPU it goes back to the system.
        assert mx.get_cache_memory() - unused == pytest.approx(64 * MIB, rel=0.1)
    mx.clear_cache()
    assert mx.get_cache_memory() < MIB


def test_unused_memory_is_limited() -> None:
    former = mx.set_cache_limit(16 * MIB)
    try:
        arrays = [mx.zeros((8, MIB)) + i for i in range(4)]
        mx.eval(arrays)
        del arrays
        mx.eval(mx.zeros((8, MIB)) + 1)
        assert mx.get_cache_memory() <= 16 * MIB
    finally:
        mx.set_cache_limit(former)


def test_limits_are_kept_by_mlx() -> None:
    former = mx.set_memory_limit(2**33)
    assert mx.set_memory_limit(former) == 2**33


def test_the_default_limit_leaves_some_of_the_device() -> None:
    info = mx.device_info()
    total = info.get("total_memory") or info.get("memory_size")
    limit = DeviceMemory.here().limit
    assert limit > 2**30
    if total:
        assert limit <= 0.95 * total


@pytest.mark.parametrize("head", [64, 128, 256])
def test_a_long_prompt_beside_short_rows_stays_within_the_projection(head: int) -> None:
    """Also where attention stores its scores, which depends on the device and on the head."""
    model = load(tiny_model_dir({**WIDE, "head_dim": head}))
    driver = Driver(model, prefill_chunk=512)
    base = mx.get_active_memory() - model.memory.weights
    driver.submit(*(request(k, [5] * 60, max_tokens=200) for k in range(8)))
    driver.submit(request(9, [5] * LONG, max_tokens=4))
    projected = 0
    while 9 not in driver.reasons:
        driver.turn()
        groups = [group.lengths for group in driver.groups]
        groups += [[prompt.length] for prompt in driver.prompts]
        projected = max(projected, model.memory.total(groups, 512))
        assert driver.failed == {}
    assert mx.get_peak_memory() - base <= projected


def test_a_prefill_leaves_little_unused_memory_behind() -> None:
    model = load(tiny_model_dir(WIDE))
    driver = Driver(model, prefill_chunk=512)
    driver.submit(request(0, [5] * LONG, max_tokens=4))
    unused = 0
    while driver.scheduler.busy:
        driver.turn()
        unused = max(unused, mx.get_cache_memory())
    assert unused < 2 * model.memory.row(LONG) + 256 * MIB


@pytest.mark.parametrize("name", ["llama", "cohere2", "jamba"])
def test_memory_does_not_grow_with_the_number_of_steps(name: str) -> None:
    """Layers without rotary embedding never use the offsets of a batch's cache."""
    driver = Driver(load(tiny_model_dir(ARCHITECTURES[name])))
    driver.submit(*(request(i, [5 + i] * 10, max_tokens=250) for i in range(2)))
    held = []
    for turn in range(200):
        driver.turn()
        if turn in (60, 190):
            gc.collect()
            held.append(mx.get_active_memory())
    assert (held[1] - held[0]) / 130 < 0.5
