"""The scheduler's view of the executor: what it expects of a plan is what the result says."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from budmlx.core.batch.executor import Executor
from budmlx.core.batch.plan import Plan, Result
from budmlx.core.model.model import Model
from budmlx.core.schedule.scheduler import Scheduler
from budmlx.core.schedule.view import View
from tests.core.architectures import ARCHITECTURES
from tests.core.driver import Driver, load, request
from tests.models import tiny_model_dir


def seen(view: View) -> list[tuple[list[int], int, int]]:
    return [([row.id for row in group.rows], group.width, group.span) for group in view.groups]


class Expecting(Executor):
    """An executor that compares what a plan without a forward pass did with what was expected."""

    def __init__(self, model: Model):
        super().__init__(model)
        self.view: View | None = None
        self.compared = {"compact": 0, "requeue": 0, "leave": 0}

    def run(self, plan: Plan) -> Result:
        assert self.view is not None
        want = seen(self.view)
        result = super().run(plan)
        moves = plan.merge or plan.prefill or plan.decode or plan.pause
        # What leaves after it was counted as compacted leaves nothing vacant.
        if not moves and not (plan.compact and (plan.requeue or plan.leave)):
            assert [(g.rows, g.width, g.span) for g in result.groups] == want
            for kind in self.compared:
                self.compared[kind] += bool(getattr(plan, kind))
        return result


@pytest.mark.parametrize("name", ["llama", "gemma3_text"])
def test_what_a_plan_will_do_is_foreseen(name: str) -> None:
    model = load(tiny_model_dir(ARCHITECTURES[name], scale=4.0))
    limit = model.memory.total([[512, 512, 512, 512]], 64)
    model = replace(model, memory=replace(model.memory, limit=limit))
    rng = random.Random(5)
    executor = Expecting(model)
    driver = Driver(model)
    driver.scheduler = Scheduler(executor, max_rows=8, prefill_chunk=64)
    executor.view = driver.scheduler._view
    # These outgrow the memory together.
    driver.submit(*(request(key, [3 + key] * 240, max_tokens=290) for key in range(50, 54)))
    for key in range(12):
        ids = [3 + key] * rng.randrange(1, 250)
        driver.submit(request(key, ids, max_tokens=rng.choice([9, 40])))
        driver.turns(rng.randrange(30))
        if key % 4 == 3:
            driver.scheduler.cancel(key)
    driver.run()
    assert len(driver.reasons) >= 13 and not driver.failed
    assert executor.compared["leave"] > 8
    assert executor.compared["requeue"] or executor.compared["compact"]
