"""Buffers that nobody uses are given back when caches have grown and at rest, never in decode."""

from __future__ import annotations

import threading
import time
from queue import SimpleQueue

import mlx.core as mx
import pytest

from budmlx.core import loop
from budmlx.core.loop import CoreLoop
from budmlx.core.model.memory import CACHE_STEP
from budmlx.core.model.model import Model
from budmlx.core.reuse.blocks import BlockReuse
from budmlx.protocol import CoreSettings, FromCore, Loaded, Shutdown, StepFrame, Submit
from tests.core.driver import Driver, load, request
from tests.models import tiny_model_dir


@pytest.fixture(scope="module")
def model() -> Model:
    return load()


@pytest.fixture
def cleared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The unused bytes that MLX had, each time that they were given back."""
    clear = mx.clear_cache
    seen: list[int] = []

    def note() -> None:
        seen.append(mx.get_cache_memory())
        clear()

    monkeypatch.setattr(mx, "clear_cache", note)
    return seen


def test_decoding_gives_nothing_back(model: Model, cleared: list[int]) -> None:
    driver = Driver(model, worth_clearing=0)
    driver.submit(*(request(k, [5 + k] * 9, max_tokens=CACHE_STEP + 80) for k in range(3)))
    driver.run()
    assert len(driver.tokens[2]) == CACHE_STEP + 80 and cleared == []


def test_a_pass_that_makes_a_cache_larger_does(model: Model, cleared: list[int]) -> None:
    driver = Driver(model, prefill_chunk=64, worth_clearing=0)
    # Tokens up to the last are computed: at 256 and at 512 the cache gets larger arrays.
    driver.submit(request(0, [5] * (2 * CACHE_STEP + 66), max_tokens=2))
    driver.run()
    assert len(cleared) == 2


def test_what_was_copied_from_the_tree_is_given_back_too(model: Model, cleared: list[int]) -> None:
    words = [7 + n % 200 for n in range(CACHE_STEP)]
    reuse = BlockReuse(model, 2**28, block=64, least=1)
    driver = Driver(model, prefill_chunk=512, reuse=reuse, worth_clearing=0)
    driver.submit(request(0, words, max_tokens=2))
    driver.run()
    assert cleared == []
    driver.submit(*(request(k, [*words, *[k] * 30], max_tokens=2) for k in (1, 2)))
    driver.run()
    assert driver.groups == [] and len(cleared) >= 1


def test_little_is_not_worth_it(model: Model, cleared: list[int]) -> None:
    driver = Driver(model, prefill_chunk=64, worth_clearing=2**40)
    driver.submit(request(0, [5] * 600, max_tokens=2))
    driver.run()
    assert cleared == []


def test_a_core_at_rest_keeps_none_and_says_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "HEARTBEAT", 0.05)
    said: SimpleQueue[FromCore] = SimpleQueue()
    path = str(tiny_model_dir())
    settings = CoreSettings(model_path=path, model_name="tiny", prefix_cache=0.5, warmup=False)
    core = CoreLoop(settings, said.put)
    thread = threading.Thread(target=core.run)
    thread.start()
    try:
        loaded = said.get(timeout=60)
        assert isinstance(loaded, Loaded)
        budget = loaded.budget
        assert 0 < budget.weights < budget.limit
        assert 0 < budget.prefix_cache <= (budget.limit - budget.weights) / 2
        core.post(Submit(request(1, [5] * 100, max_tokens=4)))
        busy = wait_for(said, lambda frame: frame.running > 0)
        rest = wait_for(said, lambda frame: not frame.running and frame.memory.unused == 0)
    finally:
        core.post(Shutdown())
        thread.join(60)
    assert rest.memory.active >= budget.weights
    assert rest.memory.peak >= busy.memory.active > 0


def wait_for(said: SimpleQueue[FromCore], wanted) -> StepFrame:  # type: ignore[no-untyped-def]
    end = time.monotonic() + 60
    while time.monotonic() < end:
        frame = said.get(timeout=60)
        if isinstance(frame, StepFrame) and wanted(frame):
            return frame
    raise AssertionError("no such frame came")
