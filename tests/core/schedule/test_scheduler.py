"""Admission, fairness, cancellation and faults of the scheduler."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest

from budmlx.core.batch.executor import Executor
from budmlx.core.batch.plan import Plan, Result
from budmlx.core.model.device_faults import DeviceLostError
from budmlx.core.model.memory import MemoryModel
from budmlx.core.model.model import Model
from budmlx.core.schedule.scheduler import Scheduler
from budmlx.protocol import StepFrame
from budmlx.testing.tiny_random import LLAMA
from tests.core.driver import Driver, load, request
from tests.models import tiny_model_dir


@pytest.fixture(scope="module")
def model() -> Model:
    return load()


def alone(model: Model, **changes: Any) -> list[int]:
    driver = Driver(model)
    driver.submit(request(1, **changes))
    driver.run()
    return driver.tokens[1]


def limited(model: Model, limit: int) -> Model:
    return replace(model, memory=replace(model.memory, limit=limit))


def bytes_for(memory: MemoryModel, lengths: list[int]) -> int:
    return memory.total([lengths], 64)


def test_a_row_ends_at_a_stop_id_with_that_id(model: Model) -> None:
    tokens = alone(model, prompt=[5, 6, 7], max_tokens=12)
    driver = Driver(model)
    driver.submit(request(1, [5, 6, 7], max_tokens=12, stop_ids=[tokens[4]]))
    driver.run()
    assert driver.tokens[1] == tokens[: tokens.index(tokens[4]) + 1]
    assert driver.reasons[1] == "stop"


def test_max_tokens_are_exact_and_clamped_to_the_context() -> None:
    model = load(tiny_model_dir({**LLAMA, "max_position_embeddings": 1024}))
    driver = Driver(model)
    context = model.info.context_length
    driver.submit(
        request(1, [5] * 3, max_tokens=1),
        request(2, [6] * 3, max_tokens=7),
        request(3, [7] * (context - 5), max_tokens=10**12),
    )
    driver.run()
    assert [len(driver.tokens[i]) for i in (1, 2, 3)] == [1, 7, 5]
    assert set(driver.reasons.values()) == {"length"}


def test_a_resumed_row_continues_where_it_stopped(model: Model) -> None:
    for sampling in ({}, {"temperature": 1.0, "seed": 99}):
        whole = alone(model, prompt=[9, 8, 7], max_tokens=20, **sampling)
        rest = alone(model, prompt=[9, 8, 7], emitted_ids=whole[:8], max_tokens=20, **sampling)
        assert whole[:8] + rest == whole


def test_seeded_rows_draw_the_same_tokens_in_any_company(model: Model) -> None:
    seeded = {"temperature": 0.9, "top_p": 0.95, "seed": 4}
    want = alone(model, prompt=[9, 8, 7], max_tokens=20, **seeded)
    driver = Driver(model)
    for key in range(2, 8):
        driver.submit(request(key, range(3, 3 + 9 * key), temperature=0.28 * key, top_k=key))
        driver.turn()
    driver.submit(request(1, [9, 8, 7], max_tokens=20, **seeded))
    driver.run()
    assert driver.tokens[1] == want
    assert want != alone(model, prompt=[9, 8, 7], max_tokens=20, **{**seeded, "seed": 5})


def test_rows_are_cancelled_wherever_they_are(model: Model) -> None:
    driver = Driver(model, max_rows=2, prefill_chunk=16)
    driver.submit(request(1, [5] * 4, max_tokens=500))
    driver.turns(3)
    driver.submit(request(2, [6] * 400), request(3, [7] * 4))
    frame = driver.turn()
    assert frame.waiting == 1, "a third row must wait for max_rows"
    for key in (1, 2, 3):
        driver.scheduler.cancel(key)
    driver.scheduler.cancel(77)
    assert not driver.scheduler.busy
    frame = driver.turn()
    assert (frame.waiting, frame.running, frame.tokens) == (0, 0, [])


def test_running_rows_stream_while_a_long_prompt_prefills(model: Model) -> None:  # LIMITS 97
    driver = Driver(model, prefill_chunk=512)
    driver.submit(request(1, [5] * 4, max_tokens=4000))
    driver.turns(10)
    driver.submit(request(2, [6] * 2000, max_tokens=4))
    while not driver.tokens[2]:
        frame = driver.turn()
        assert [t for t in frame.tokens if t.id == 1], "the running row missed a turn"


def test_a_short_prompt_overtakes_a_long_one(model: Model) -> None:
    driver = Driver(model, prefill_chunk=64)
    driver.submit(request(1, [6] * 2000, max_tokens=4), request(2, [5] * 20, max_tokens=4))
    driver.turns(4)
    assert driver.tokens[2] and not driver.tokens[1]
    driver.run()
    assert len(driver.tokens[1]) == 4


class Noting(Executor):
    """An executor that notes the tokens of each pass over one prompt."""

    def __init__(self, model: Model):
        super().__init__(model)
        self.passes: list[int] = []

    def run(self, plan: Plan) -> Result:
        if plan.prefill is not None:
            self.passes.append(plan.prefill.tokens)
        return super().run(plan)


def test_the_rest_of_a_budget_begins_no_further_prompt_with_a_few_tokens(model: Model) -> None:
    """Every pass reads the weights."""
    for chunk, passes in ((100, [90]), (160, [90, 70])):
        executor = Noting(model)
        scheduler = Scheduler(executor, max_rows=8, prefill_chunk=chunk)
        scheduler.submit(request(1, [6] * 91, max_tokens=40))
        scheduler.submit(request(2, [5] * 300, max_tokens=40))
        scheduler.step()
        assert executor.passes == passes


def test_a_step_that_only_reads_last_tokens_says_nothing_of_the_pace(model: Model) -> None:
    """The last step of a reply computes nothing, so steps are not as short as that."""
    driver = Driver(model)
    driver.submit(request(1, [5] * 20, max_tokens=1))
    driver.run()
    assert not driver.scheduler._prefill_budget._quiet
    driver.submit(request(2, [5] * 20, max_tokens=2))
    driver.run()
    assert driver.scheduler._prefill_budget._quiet


def test_a_group_has_no_slots_for_most_prompts_before_they_come(model: Model) -> None:
    """Vacant slots take part in every step, and a long prompt takes many of them."""
    driver = Driver(model, prefill_chunk=128)
    driver.submit(*(request(key, [3 + key] * 400, max_tokens=400) for key in range(16)))
    widths = []
    while any(not tokens for tokens in driver.tokens.values()):
        driver.turn()
        widths += [(len(group.rows), group.width) for group in driver.groups]
    assert all(width <= 2 * rows for rows, width in widths)
    assert max(rows for rows, _ in widths) == 16


def test_rows_of_very_different_length_run_in_their_own_groups(model: Model) -> None:
    heavy = replace(model, memory=replace(model.memory, weights=2**20, layers=LARGE_KV))
    driver = Driver(heavy)
    driver.submit(request(0, [7] * 2000, max_tokens=400))
    while not driver.tokens[0]:
        driver.turn()
    driver.submit(*(request(k, [k] * 20, max_tokens=30) for k in range(1, 9)))
    while len(driver.reasons) < 8:
        driver.turn()
        lengths = [sorted(group.lengths) for group in driver.groups]
        assert all(group[-1] < 2 * group[0] or group[-1] < 200 for group in lengths)
    assert max(len(group.rows) for group in driver.groups) == 1
    driver.run()


LARGE_KV = tuple(replace(layer, per_token=2**16) for layer in load().memory.layers)


def test_what_does_not_fit_waits_and_then_runs(model: Model) -> None:  # LIMITS 96
    tight = limited(model, bytes_for(model.memory, [600, 600]))
    driver = Driver(tight)
    driver.submit(*(request(k, [k + 3] * 300, max_tokens=8) for k in range(6)))
    driver.turns(2)
    assert driver.frames[-1].waiting >= 1
    driver.run()
    assert len(driver.reasons) == 6 and not driver.failed


def test_what_can_never_fit_fails_alone_and_at_once(model: Model) -> None:
    driver = Driver(limited(model, bytes_for(model.memory, [1024])))
    driver.submit(request(1, [5] * 3000), request(2, [6] * 5))
    driver.run()
    assert driver.failed[1].code == "context_length_exceeded"
    assert driver.reasons == {2: "length"}


def test_rows_that_outgrow_the_memory_give_way_and_lose_nothing(model: Model) -> None:
    prompts = {k: [k + 3] * 460 for k in range(4)}
    want = {k: alone(model, prompt=ids, max_tokens=80) for k, ids in prompts.items()}
    tight = limited(model, bytes_for(model.memory, [512, 512, 512, 512]))
    driver = Driver(tight)
    driver.submit(*(request(k, ids, max_tokens=80) for k, ids in prompts.items()))
    driver.run()
    assert driver.tokens == want
    assert any(frame.waiting for frame in driver.frames[50:]), "nobody had to give way"


class Faulty(nn.Module):
    """A model that raises when it is fed `poison`, once or always, early or at evaluation."""

    def __init__(self, inner: nn.Module, poison: int, *, times: int = 10**9, text: str = "boom"):
        super().__init__()
        self.inner, self.poison, self.times, self.text = inner, poison, times, text
        self.layers = inner.layers

    def __call__(self, tokens: mx.array, cache: list[Any]) -> mx.array:
        if self.times > 0 and self.poison in tokens.flatten().tolist():
            self.times -= 1
            raise RuntimeError(self.text)
        return self.inner(tokens, cache=cache)


def test_a_fault_belongs_to_one_row(model: Model) -> None:
    prompts = {k: [k + 3] * 5 for k in range(4)}
    want = {k: alone(model, prompt=ids, max_tokens=12) for k, ids in prompts.items()}
    poison = next(t for t in range(300, 512) if all(t not in want[k] for k in want))
    driver = Driver(replace(model, module=Faulty(model.module, poison)))
    driver.submit(*(request(k, ids, max_tokens=12) for k, ids in prompts.items()))
    driver.turns(3)
    driver.submit(request(9, [5, 5, poison]), request(10, [poison] * 40))
    driver.run()
    assert set(driver.failed) == {9, 10}
    assert {driver.failed[k].code for k in (9, 10)} == {"request_failed"}
    assert {k: driver.tokens[k] for k in prompts} == want


def test_a_passing_fault_fails_nobody(model: Model) -> None:
    want = alone(model, prompt=[5, 6, 7], max_tokens=12)
    driver = Driver(replace(model, module=Faulty(model.module, want[3], times=1)))
    driver.submit(request(1, [5, 6, 7], max_tokens=12), request(2, [8, 6, 7], max_tokens=12))
    driver.run()
    assert driver.tokens[1] == want and not driver.failed


def test_a_lost_device_ends_the_core(model: Model) -> None:
    faulty = Faulty(model.module, 5, text="[METAL] Command buffer: SubmissionsIgnored")
    driver = Driver(replace(model, module=faulty))
    driver.submit(request(1, [5, 5]))
    with pytest.raises(DeviceLostError):
        driver.run()


def test_who_begins_is_told_before_prompts_are_computed(model: Model) -> None:
    seen: list[tuple[list[int], int]] = []
    driver = Driver(model)
    scheduler = driver.scheduler

    def told(frame: StepFrame) -> None:
        computed = sum(prompt.computed for prompt in driver.prompts)
        seen.append((frame.started, computed))

    scheduler.submit(request(1, [5] * 20))
    frame = scheduler.step(told)
    assert seen == [([1], 0)]
    assert frame.started == [] and frame.running == 1
    while scheduler.busy:
        scheduler.step(told)
    assert len(seen) == 1
