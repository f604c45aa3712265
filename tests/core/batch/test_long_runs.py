"""Nothing grows with the number of steps of a batch, and rows that end do not stop the device."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import CacheList

from budmlx.core.batch.group import EVALUATE_EVERY
from budmlx.core.model.memory import state_arrays
from budmlx.core.reuse.checkpoints import CheckpointReuse
from tests.amount import usually
from tests.core.architectures import ARCHITECTURES, SCALES
from tests.core.driver import Driver, load, request
from tests.core.reuse.test_blocks import cold, plain, words
from tests.models import tiny_model_dir

ROWS = 2
PROMPT = 10
# Steps after which nothing new is held, and before which the caches do not grow for the first time.
SETTLED, SHORT = 2 * EVALUATE_EVERY, 240
# Bytes by which allocations differ, each of which is rounded up.
ROUNDING = 2**14


def caches_of(driver: Driver) -> list[Any]:
    return [entry for group in driver.executor.groups for entry in group._slots.caches]


class LongRun:
    """A batch in which nobody comes or goes, and what it holds beside its keys and values."""

    def __init__(self, name: str, steps: int, folder: Path):
        longer = {"max_position_embeddings": 2 * steps + PROMPT}
        config = {**ARCHITECTURES[name], **longer}
        if "text_config" in config:
            config["text_config"] = {**config["text_config"], **longer}
        self._graph = folder / "graph.dot"
        self.driver = Driver(load(tiny_model_dir(config, scale=SCALES.get(name, 4.0))))
        self.driver.submit(
            *(
                request(i, [5 + i] * PROMPT, max_tokens=2 * steps, temperature=float(i > 0), seed=i)
                for i in range(ROWS)
            )
        )

    def turns(self, count: int) -> tuple[int, int]:
        """Turn so often. Returns the most bytes and pending operations after the last turns."""
        self.driver.turns(count - EVALUATE_EVERY)
        held = []
        for _ in range(EVALUATE_EVERY):
            self.driver.turn()
            held.append((self._bytes(), self._pending()))
        return max(held)[0], max(pending for _, pending in held)

    def _bytes(self) -> int:
        mx.synchronize()
        return mx.get_active_memory() - sum(entry.nbytes for entry in caches_of(self.driver))

    def _pending(self) -> int:
        mx.export_to_dot(str(self._graph), *state_arrays(caches_of(self.driver)))
        return self._graph.read_text().count("shape=rectangle")


@pytest.mark.parametrize(
    "name", usually({"llama", "jamba"}.__contains__, ["llama", "jamba", "cohere2"])
)
def test_a_batch_holds_the_same_after_many_steps(name: str, tmp_path: Path) -> None:
    run = LongRun(name, SHORT, tmp_path)
    before = run.turns(SETTLED)
    after = run.turns(SHORT - SETTLED)
    print(name, before, after)
    assert after[0] <= before[0] + ROUNDING and after[1] <= before[1]


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_batch_holds_the_same_after_ten_thousand_steps(name: str, tmp_path: Path) -> None:
    run = LongRun(name, 10_000, tmp_path)
    before = run.turns(SETTLED)
    after = run.turns(10_000 - SETTLED)
    print(name, before, after)
    assert after[0] <= before[0] + ROUNDING and after[1] <= before[1]


def entries_of(caches: list[Any]) -> Iterator[Any]:
    for entry in caches:
        if isinstance(entry, CacheList):
            yield from entries_of(list(entry.caches))
        else:
            yield entry


@pytest.mark.parametrize("name", usually("gemma3_text".__eq__, ["gemma3_text", "gpt_oss", "jamba"]))
def test_a_row_that_ends_does_not_wait_for_the_step_in_flight(name: str) -> None:
    """Its state is taken and the others move up without a number that is still being computed."""
    model = plain(name)
    rows = [request(key, words(key, 40 + key), max_tokens=60) for key in range(3)]
    want = cold(model, *rows)
    reuse = CheckpointReuse(2**24)
    driver = Driver(model, reuse=reuse)
    driver.submit(*rows)
    driver.turns(30)
    for entry in entries_of(caches_of(driver)):
        if hasattr(entry, "offset"):
            late = mx.random.normal((2**23,)).max() > 99
            entry.offset = entry.offset + late
            entry.left_padding = entry.left_padding + late
    stored = reuse.version
    gc.collect()
    mx.synchronize()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    driver.scheduler.cancel(1)
    mx.synchronize()
    assert mx.get_peak_memory() < before + 2**24, "what was late has been computed"
    assert reuse.version > stored and len(caches_of(driver)) > 0
    driver.run()
    assert {key: driver.tokens[key] for key in (0, 2)} == {key: want[key] for key in (0, 2)}
