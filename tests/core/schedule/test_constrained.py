"""Rows with grammars beside others: apart as long as their masks may keep the others waiting."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest

from budmlx.core.batch.executor import Executor
from budmlx.core.batch.plan import Plan, Result
from budmlx.core.model.model import Model
from budmlx.core.row import Row
from budmlx.core.sample.grammar import Constraints, Grammars, RowGrammar
from budmlx.core.schedule.view import GroupView, View
from budmlx.protocol import GenerateRequest, Grammar
from tests.core.driver import Driver, load, request

SOURCE = "start: /[a-z]{200}/"
FREE = [request(key, [9, 8, key], max_tokens=50, temperature=1.0, seed=key) for key in (1, 2, 3)]


@pytest.fixture(scope="module")
def model() -> Model:
    return load()


def guided(model: Model, key: int) -> GenerateRequest:
    grammar = Grammar(source=SOURCE, param="response_format")
    stops = list(model.info.eos_token_ids)
    return request(key, [9, 8, key], grammar=grammar, max_tokens=20, seed=key, stop_ids=stops)


def ready(model: Model) -> Driver:
    """A driver whose rows need not wait for the grammar."""
    driver = Driver(model)
    driver.scheduler._compiling._grammars.start(SOURCE).matcher.result()
    return driver


@pytest.fixture(scope="module")
def want(model: Model) -> dict[int, list[int]]:
    """The tokens of each row alone."""
    tokens = {}
    for row in [*FREE, guided(model, 11), guided(model, 12)]:
        driver = ready(model)
        driver.submit(row)
        driver.run()
        tokens.update(driver.tokens)
    return tokens


def kinds(driver: Driver) -> list[set[int]]:
    """The rows of each group."""
    return [{row.id for row in group.rows} for group in driver.groups]


def begun(driver: Driver) -> bool:
    return all(driver.tokens.values()) and not driver.prompts


@pytest.mark.parametrize("together", [True, False])
def test_slow_masks_keep_nobody_else_waiting(
    model: Model, want: dict[int, list[int]], together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows that have grammars share a group of their own, which comes last in every step."""
    inner, learn = Constraints.apply, View.learn

    def slow(*arguments: Any) -> Any:
        time.sleep(0.02)
        return inner(*arguments)

    def learn_from_a_quick_pass(view: View, masking: float, _: float) -> None:
        """What the pass itself takes differs with what else this machine does."""
        assert masking >= 0.02
        learn(view, masking, 0.002)

    rows = [guided(model, key) for key in (11, 12)]
    monkeypatch.setattr(Constraints, "apply", slow)
    monkeypatch.setattr(View, "learn", learn_from_a_quick_pass)
    driver, orders = ready(model), []
    run = Executor.run

    def noted(executor: Executor, plan: Plan) -> Result:
        orders.append([*plan.decode, *plan.pause])
        return run(executor, plan)

    monkeypatch.setattr(Executor, "run", noted)
    for row in [FREE[0], *rows, *FREE[1:]]:
        driver.submit(row)
        driver.turns(0 if together else 2)
    while not begun(driver):
        driver.turn()
    for _ in range(4):
        driver.turn()
        assert sorted(kinds(driver), key=min) == [{1, 2, 3}, {11, 12}]
    driver.run()
    assert driver.tokens == want
    assert all(row_id > 10 for order in orders for row_id in order[1:])


def test_quick_masks_cost_less_than_a_pass_of_their_own(
    model: Model, want: dict[int, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [guided(model, key) for key in (11, 12)]
    known = []

    def learn(view: View, masking: float, quiet: float) -> None:
        known.append((masking, quiet))
        view._masks = 0.0

    monkeypatch.setattr(View, "learn", learn)
    driver = ready(model)
    driver.submit(*FREE, *rows)
    while not known:
        driver.turn()
        assert all(len({row > 10 for row in rows}) == 1 for rows in kinds(driver))
    driver.turns(3)
    assert kinds(driver) == [{1, 2, 3, 11, 12}]
    masking, quiet = known[-1]
    assert masking > 0 and quiet > 0
    driver.run()
    assert driver.tokens == want


def test_what_masks_cost_is_learned_in_bytes(model: Model) -> None:
    view = View(Executor(model))
    rows = [Row.of(FREE[0]), Row.of(guided(model, 11))]
    rows[1].grammar = RowGrammar(Grammars(model.info).start(SOURCE).matcher.result())
    view.groups = [GroupView([row], 1, 0, False) for row in rows]
    free, constrained = view.groups
    assert (free.constrained, constrained.constrained) == (False, True)
    assert view.merge_best() == [] and view._wait(free, constrained) == math.inf
    cost = view._placement.cost
    read = cost(free.lengths) + cost(constrained.lengths)
    both = cost([*free.lengths, *constrained.lengths])

    view.learn(0.001, 0.011)
    assert view._masks == pytest.approx(0.1 * read)
    assert view._wait(free, constrained) == view._wait(constrained, free) == 0
    assert view._wait(free, free) == view._wait(constrained, constrained) == 0
    for _ in range(50):
        view.learn(0.008, 0.011)
    assert view._wait(free, constrained) == pytest.approx(8 / 3 * read - both, rel=0.01)
    assert view.merge_best() == []
    for _ in range(50):
        view.learn(0.001, 0.011)
    assert view.merge_best() == [(1, 11)]
    assert view.groups[0].mixed and view._wait(view.groups[0], constrained) == 0
