"""Plans as data: they pass through a socket, and whoever runs them does the same."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import count

import msgspec
import pytest

from budmlx.core.batch.executor import Executor
from budmlx.core.batch.plan import Plan, Prefill, Result
from budmlx.core.model.model import Model
from budmlx.core.reuse.blocks import BlockReuse
from budmlx.core.reuse.checkpoints import CheckpointReuse
from budmlx.core.reuse.interface import Reusing
from budmlx.core.row import Row
from budmlx.core.sample.grammar import Grammars, RowGrammar
from budmlx.core.schedule.scheduler import Scheduler
from budmlx.protocol import GenerateRequest, Grammar, PluginCall, RowFailed
from tests.amount import usually
from tests.core.architectures import ARCHITECTURES
from tests.core.driver import Driver, load, request
from tests.models import tiny_model_dir

Told = GenerateRequest | bytes
COUNTING = PluginCall(
    plugin="stranger",
    name="Counting",
    core="tests.core.plugin_samples:Counting",
    options={"offset": 40},
)


def decoded(data: bytes) -> Plan:
    return msgspec.msgpack.decode(data, type=Plan)


class Recording(Executor):
    """An executor that runs what arrives when plans are packed, and notes all that it is told."""

    def __init__(self, model: Model, reuse: Reusing):
        super().__init__(model, reuse)
        self.told: list[Told] = []
        self.results: list[Result] = []

    def add(self, row: Row) -> RowFailed | None:
        self.told.append(row.request)
        return super().add(row)

    def run(self, plan: Plan) -> Result:
        data = msgspec.msgpack.encode(plan)
        assert decoded(data) == plan
        self.told.append(data)
        self.results.append(super().run(decoded(data)))
        return self.results[-1]


def follow(model: Model, reuse: Reusing, told: list[Told]) -> Iterator[Result]:
    """What an executor says that is told the same."""
    executor, grammars = Executor(model, reuse), Grammars(model.info)
    for each in told:
        if isinstance(each, bytes):
            yield executor.run(decoded(each))
            continue
        row = Row.of(each)
        if each.grammar is not None:
            row.grammar = RowGrammar(
                grammars.start(each.grammar.source).matcher.result().deep_copy()
            )
        executor.add(row)


def same(result: Result) -> Result:
    """A result without what a clock or the process measured."""
    return msgspec.structs.replace(result, seconds=0, pace=None, memory=0, disk=None, masking=0)


def reuse_of(model: Model) -> Reusing:
    per_token = sum(layer.per_token for layer in model.memory.layers)
    if model.info.needs_checkpoints:
        return CheckpointReuse(2**24)
    return BlockReuse(model, 200 * per_token, block=8, least=1)


def mixed(model: Model, rng: random.Random) -> list[GenerateRequest]:
    """Rows of all kinds, some of which begin alike."""
    stems = [[rng.randrange(3, 400) for _ in range(n)] for n in (12, 40, 90)]
    ids = count(1)

    def prompt() -> list[int]:
        stem = rng.choice(stems)
        begin = stem[: rng.choice([rng.randrange(1, len(stem) + 1), len(stem)])]
        stems.append([*begin, *rng.choices(range(3, 400), k=5)])
        return stems[-1]

    rows = [
        request(next(ids), prompt(), temperature=rng.choice([0.0, 1.0]), seed=i, **changes)
        for i in range(4)
        for changes in (
            {"max_tokens": rng.randrange(2, 30)},
            {"repetition_penalty": 1.2, "repetition_window": 6},
            {"stop_ids": [*range(3, 30)], "min_tokens": 4, "checkpoints": [20]},
            {"sampler": COUNTING, "max_tokens": 9},
        )
    ]
    stops = list(model.info.eos_token_ids)
    form = Grammar(source='start: "yes" | "no"', param="response_format")
    rows.append(request(next(ids), prompt(), grammar=form, stop_ids=stops, seed=3))
    choices = {"fork": 7, "temperature": 1.0, "max_tokens": 12}
    forked = prompt()
    return [*rows, *(request(next(ids), forked, choice=c, **choices) for c in range(3))]


@pytest.mark.parametrize(
    "name", usually({"llama", "mamba"}.__contains__, ["llama", "gemma3_text", "mamba"])
)
def test_whoever_runs_the_same_plans_draws_the_same_tokens(name: str) -> None:
    model = load(tiny_model_dir(ARCHITECTURES[name], scale=4.0))
    rng = random.Random(name)
    executor = Recording(model, reuse_of(model))
    driver = Driver(model)
    driver.scheduler = Scheduler(executor, max_rows=6, prefill_chunk=32)
    requests = mixed(model, rng)
    for number, item in enumerate(requests):
        driver.submit(item)
        driver.turns(rng.randrange(6))
        if number % 5 == 4:
            driver.scheduler.cancel(item.id)
        if number % 4 == 3 and driver.groups:
            driver.scheduler._requeue(driver.groups[0].rows[:1])
    driver.run()
    assert not driver.failed and len(driver.reasons) >= len(requests) - 4
    plans = [decoded(each) for each in executor.told if isinstance(each, bytes)]
    assert any(plan.leave and not plan.keep for plan in plans), "none was cancelled early"
    assert any(plan.keep for plan in plans) and any(plan.prefill for plan in plans)
    assert any(plan.merge for plan in plans) or not model.info.batchable
    assert any(plan.requeue for plan in plans)
    assert sum(bool(token.cached) for result in executor.results for token in result.tokens) > 1
    results = list(follow(model, reuse_of(model), executor.told))
    assert len(results) == len(executor.results)
    for plan, mine, other in zip(plans, executor.results, results, strict=True):
        assert same(other) == same(mine), plan
    tokens: dict[int, list[int]] = {}
    for result in results:
        for token in result.tokens:
            tokens.setdefault(token.id, []).append(token.token)
    assert tokens == {key: ids for key, ids in driver.tokens.items() if ids}


def test_a_quiet_step_is_one_small_plan() -> None:
    model = load()
    executor = Recording(model, BlockReuse(model, 0))
    driver = Driver(model)
    driver.scheduler = Scheduler(executor, max_rows=16, prefill_chunk=512)
    driver.submit(*(request(k, [5 + k] * 9, max_tokens=40) for k in range(16)))
    driver.turns(5)
    executor.told.clear()
    driver.turns(10)
    sizes = [len(each) for each in executor.told if isinstance(each, bytes)]
    assert len(sizes) == 10 and max(sizes) < 32


def test_a_plan_passes_through_a_socket_whole() -> None:
    plan = Plan(
        forget=True,
        keep=[1],
        leave=[1, 2**63],
        requeue=[3],
        compact=[4],
        merge=[(5, 6)],
        admit=[[7, 8], [9]],
        restore=0,
        room=2**40,
        save=True,
        prefill=Prefill([7, 9], 0),
        decode=[5],
        pause=[4],
    )
    assert decoded(msgspec.msgpack.encode(plan)) == plan
    assert len(msgspec.msgpack.encode(Plan())) == 1


def test_a_fault_is_reported_and_ends_nothing_else() -> None:
    model = load()
    executor = Executor(model)
    for key in (1, 2):
        executor.add(Row.of(request(key, [5, 6, 7], sampler=COUNTING if key == 1 else None)))
    executor.run(Plan(admit=[[1], [2]]))
    for key in (1, 2):
        executor.run(Plan(prefill=Prefill([key], 2)))
    broken, good = executor.groups
    broken._slots.caches = []
    result = executor.run(Plan(decode=[1, 2]))
    assert (result.faults, result.failed) == ([[1]], [])
    assert broken.rows[0].unread == 0 and good.rows[0].unread == 1
    again = executor.run(Plan(forget=True, requeue=[1], decode=[2]))
    assert [token.id for token in again.tokens] == [2] and not again.faults
    assert [group.rows for group in again.groups] == [[2]]
    executor.run(Plan(admit=[[1]]))
    executor.run(Plan(prefill=Prefill([1], 2)))
    executor.run(Plan(decode=[1]))
    assert [token.token for token in executor.run(Plan(decode=[1])).tokens] == [40]
