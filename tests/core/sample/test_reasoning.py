"""Rows with budgets of reasoning: what they write before and after, alone and beside others."""

from __future__ import annotations

import msgspec
import pytest

from budmlx.core.model.model import Model
from budmlx.protocol import GenerateRequest, Grammar, ReasoningBudget
from tests.core.driver import Driver, load, request

CLOSING = [7, 8, 9]
END = 8


@pytest.fixture(scope="module")
def model() -> Model:
    return load()


def budget(tokens: int, *, anywhere: bool = False, begun: bool = True) -> ReasoningBudget:
    return ReasoningBudget(
        tokens=tokens,
        begun=begun,
        begins=["<t>"],
        ends=["</t>"],
        anywhere=anywhere,
        closings=[CLOSING],
        texts={6: "<t>", END: "</t>"},
    )


def row(row_id: int, **changes: object) -> GenerateRequest:
    fields: dict[str, object] = {"temperature": 1.0, "seed": row_id, "max_tokens": 40, **changes}
    # The model never ends the reasoning itself, which would end the budget.
    banned = ((6, -100.0), (END, -100.0))
    return request(row_id, [*range(20, 30), row_id], logit_bias=banned, **fields)


def run(model: Model, *rows: GenerateRequest) -> dict[int, list[int]]:
    driver = Driver(model)
    driver.submit(*rows)
    driver.run()
    assert not driver.failed
    return driver.tokens


@pytest.mark.parametrize("tokens", [0, 1, 2, 17, 38, 39, 40])
def test_tokens_before_the_budget_are_those_without(model: Model, tokens: int) -> None:
    free = run(model, row(1))[1]
    limited = run(model, row(1, reasoning=budget(tokens)))[1]
    assert limited[:tokens] == free[:tokens]
    assert limited[tokens : tokens + 3] == CLOSING[: 40 - tokens]
    assert len(limited) == 40


def test_others_in_the_batch_do_not_notice(model: Model) -> None:
    rows = [
        row(1, reasoning=budget(3)),
        row(2),
        row(3, reasoning=budget(9, anywhere=True), top_k=8),
        row(4, temperature=0.0, reasoning=budget(9)),
        row(5, repetition_penalty=1.3, logprobs=2),
    ]
    alone = {each.id: run(model, each)[each.id] for each in rows}
    assert run(model, *rows) == alone


def test_the_model_may_end_before(model: Model) -> None:
    free = run(model, row(1))[1]
    # What it writes at place 5 ends the reasoning.
    ends = msgspec.structs.replace(budget(10), texts={free[5]: "</t>"})
    place = free.index(free[5])
    assert place < 10
    assert run(model, row(1, reasoning=ends))[1] == free


def test_a_reply_without_reasoning_has_no_end_of_it(model: Model) -> None:
    free = run(model, row(1))[1]
    assert run(model, row(1, reasoning=budget(2, begun=False)))[1] == free
    assert run(model, row(1, reasoning=budget(2, begun=False, anywhere=True)))[1] == free


def test_a_block_that_begins_later_counts(model: Model) -> None:
    free = run(model, row(1))[1]
    starts = msgspec.structs.replace(
        budget(4, begun=False, anywhere=True), texts={free[3]: "<t>", END: "</t>"}
    )
    first = free.index(free[3])
    limited = run(model, row(1, reasoning=starts))[1]
    at = first + 1 + 4
    assert limited[:at] == free[:at] and limited[at : at + 3] == CLOSING
    # Whenever it begins again, it ends at once.
    for place, token in enumerate(limited[at + 3 :], at + 3):
        if token == free[3]:
            assert limited[place + 1 : place + 4] == CLOSING[: 39 - place]


@pytest.mark.parametrize("emitted", [3, 5, 6, 7, 8, 12])
def test_a_row_goes_on_after_a_crash(model: Model, emitted: int) -> None:
    whole = run(model, row(1, reasoning=budget(5)))[1]
    rest = run(model, row(1, reasoning=budget(5), emitted_ids=whole[:emitted]))[1]
    assert whole[:emitted] + rest == whole


def test_rows_that_are_sent_back_go_on(model: Model) -> None:
    rows = [row(1, reasoning=budget(5)), row(2, reasoning=budget(11))]
    whole = run(model, *rows)
    for turns in (5, 9, 14):
        driver = Driver(model)
        driver.submit(*rows)
        driver.turns(turns)
        driver.scheduler._requeue(list(driver.scheduler._rows.values()))
        driver.run()
        assert driver.tokens == whole


def test_a_grammar_follows_what_is_forced(model: Model) -> None:
    source = 'start: /(.|\\n)*/ <[8]> "yes"'
    limited = row(
        1,
        reasoning=msgspec.structs.replace(budget(5), closings=[[END]]),
        grammar=Grammar(source="%llguidance {}\n" + source, param="response_format"),
        stop_ids=list(model.info.eos_token_ids),
    )
    limited = msgspec.structs.replace(limited, sampling=request(1, [1], temperature=1.0).sampling)
    tokens = run(model, limited)[1]
    assert tokens[5] == END and tokens.index(END) <= 5
    assert len(tokens) < 12
