"""The numbers that are chosen for a device, from what MLX says of it."""

from __future__ import annotations

import logging
from typing import Any

import mlx.core as mx
import pytest

from budmlx.core.model.device_numbers import (
    LONGEST_METAL_CHUNK,
    OVERHEAD_LIMITS,
    SMALLEST_FITTED,
    Backend,
    numbers_of,
    this_device,
)
from budmlx.core.model.model import Model
from budmlx.testing.tiny_random import LLAMA
from tests.core.driver import load
from tests.models import tiny_model_dir

CPU = {"architecture": "x86_64", "device_name": "Intel(R) Xeon(R) Processor"}
M1 = {"architecture": "applegpu_g13g", "device_name": "Apple M1", "memory_size": 2**34}
M4_PRO = {"architecture": "applegpu_g16s", "device_name": "Apple M4 Pro"}
M3_ULTRA = {"architecture": "applegpu_g15d", "device_name": "Apple M3 Ultra"}
H200 = {"device_name": "NVIDIA H200", "total_memory": 150_000_000_000}
LEAST, MOST = OVERHEAD_LIMITS


@pytest.mark.parametrize(
    ("backend", "info", "chunk", "multiple", "overhead"),
    [
        ("cpu", CPU, 512, 1, 32 * 2**20),
        ("metal", M1, 2048, 32, 400_000_000),
        ("metal", M4_PRO, 2048, 32, 800_000_000),
        ("metal", M3_ULTRA, 2048, 32, MOST),
        ("metal", {}, 2048, 32, 400_000_000),
        ("cuda", H200, 2048, 32, MOST),
    ],
)
def test_numbers_come_from_the_device(
    backend: Backend, info: dict[str, Any], chunk: int, multiple: int, overhead: int
) -> None:
    numbers = numbers_of(backend, info)
    assert (numbers.prefill_chunk, numbers.multiple) == (chunk, multiple)
    assert numbers.least_chunk % multiple == 0 and chunk % multiple == 0
    assert numbers.step_overhead == overhead
    assert numbers.device == info.get("device_name", backend)
    assert numbers_of("cpu", CPU).step_overhead <= LEAST


@pytest.mark.skipif(mx.default_device() == mx.gpu, reason="there is a GPU here")
def test_without_a_gpu_the_numbers_are_those_of_a_cpu() -> None:
    assert this_device() == numbers_of("cpu", mx.device_info(mx.cpu))


def test_a_chunk_that_would_cost_context_is_made_smaller() -> None:
    numbers = numbers_of("cuda", H200)
    assert numbers.fitted(lambda chunk: 40_000) == numbers
    assert numbers.fitted(lambda chunk: 42_000 - max(chunk, 2048)).prefill_chunk == 2048
    assert numbers.fitted(lambda chunk: 40_000 - chunk).prefill_chunk == SMALLEST_FITTED
    cpu = numbers_of("cpu", CPU)
    assert cpu.fitted(lambda chunk: 40_000 - chunk) == cpu


def of(chunk: int | None = None, **settings: Any) -> Model:
    model = tiny_model_dir({**LLAMA, "max_position_embeddings": 2**15})
    return load(model, prefill_chunk=chunk, **settings)


def test_a_models_chunk_is_the_devices_or_the_one_that_was_set() -> None:
    model = of()
    assert model.numbers.prefill_chunk == this_device().prefill_chunk
    assert model.info.numbers == model.numbers.shown
    assert of(40).info.numbers["prefill_chunk"] == 40


def test_a_tight_memory_makes_the_devices_chunk_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    big = numbers_of("cuda", H200)
    monkeypatch.setattr("budmlx.core.model.loading.this_device", lambda: big)
    memory = of().memory
    assert of().numbers.prefill_chunk == big.prefill_chunk
    limit = memory.total([[2**15]], SMALLEST_FITTED) + 2**20
    tight = of(memory_limit=limit)
    assert SMALLEST_FITTED <= tight.numbers.prefill_chunk < big.prefill_chunk
    assert tight.memory.longest_row(2**15, tight.numbers.prefill_chunk) == 2**15
    assert of(big.prefill_chunk, memory_limit=limit).numbers.prefill_chunk == big.prefill_chunk


def test_long_passes_on_metal_are_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("budmlx.core.model.loading.this_device", lambda: numbers_of("metal", M1))
    with caplog.at_level(logging.WARNING):
        of(LONGEST_METAL_CHUNK)
        assert "prefill_chunk" not in caplog.text
        of(LONGEST_METAL_CHUNK + 1)
    assert f"prefill_chunk is {LONGEST_METAL_CHUNK + 1}" in caplog.text
