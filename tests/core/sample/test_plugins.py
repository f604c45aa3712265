"""Samplers and processors of plugins: state per row, order, and faults that stay with a row."""

from __future__ import annotations

import time

import pytest

from budmlx.core.model.model import Model
from budmlx.core.plugin_calls import PACE
from budmlx.plugins import boundary
from budmlx.protocol import PluginCall
from tests.core.driver import Driver, load, request


def call(name: str, **options: object) -> PluginCall:
    core = f"tests.core.plugin_samples:{name}"
    return PluginCall(plugin="stranger", name=name, core=core, options=options)


@pytest.fixture(scope="module")
def model() -> Model:
    return load()


def test_state_follows_rows_that_come_go_and_fork(model: Model) -> None:
    driver = Driver(model, prefill_chunk=16)
    driver.submit(request(1, [5] * 3, sampler=call("Counting", offset=10), max_tokens=12))
    driver.turns(4)
    driver.submit(
        request(2, [6] * 30, sampler=call("Counting", offset=50), max_tokens=3),
        request(3, [7] * 4, max_tokens=9),
        *(
            request(k, [8] * 5, sampler=call("Counting", offset=90), max_tokens=7, fork=4)
            for k in (4, 5)
        ),
    )
    driver.run()
    assert driver.tokens[1] == list(range(10, 22))
    assert driver.tokens[2] == [50, 51, 52]
    assert driver.tokens[4] == driver.tokens[5] == list(range(90, 97))
    alone = Driver(model)
    alone.submit(request(3, [7] * 4, max_tokens=9))
    alone.run()
    assert driver.tokens[3] == alone.tokens[3]


def test_a_row_that_makes_way_keeps_its_state(model: Model) -> None:
    """For want of memory, or for another owner's."""
    driver = Driver(model, max_rows=2)
    driver.submit(
        *(request(k, [5] * 5, sampler=call("Counting"), max_tokens=40) for k in (1, 2)),
    )
    driver.turns(8)
    admission = driver.scheduler._admission
    fits = admission.fits
    admission.fits = lambda groups: sum(map(len, groups)) < 2 and fits(groups)  # type: ignore
    driver.turn()
    assert driver.scheduler._rows[2] in driver.scheduler._waiting
    driver.turns(3)
    admission.fits = fits  # type: ignore[method-assign]
    driver.turns(4)
    driver.submit(request(3, [6] * 5, owner="other", max_tokens=2))
    driver.scheduler._claims[driver.scheduler._waiting.interactive].computed(60.0)
    driver.turn()
    assert sum(row.sent_back for row in driver.scheduler._rows.values()) == 2
    driver.run()
    assert driver.tokens[1] == driver.tokens[2] == list(range(40))


def test_processors_run_in_the_rows_order_and_see_the_history(model: Model) -> None:
    driver = Driver(model)
    driver.submit(
        request(1, [5, 5, 9], processors=[call("NoRepeat")], max_tokens=40),
        request(2, [5, 5, 9], max_tokens=40),
        request(3, [4], processors=[call("NoRepeat")], sampler=call("Counting"), max_tokens=5),
    )
    driver.run()
    assert len({5, 9, *driver.tokens[1]}) == 42
    assert driver.tokens[3] == [0, 1, 2, 3, 4]
    assert len(driver.tokens[2]) == 40


@pytest.mark.parametrize(
    "how", ["init", "state", "type", "shape", "tuple", "new state", "raise", "exit"]
)
def test_a_faulty_processor_fails_its_row_alone(model: Model, how: str) -> None:
    _fails_alone(model, {"processors": [call("NoRepeat"), call("Broken", how=how)]})


@pytest.mark.parametrize("how", ["nan", "one", "inf"])
@pytest.mark.parametrize("others", [[], ["NoRepeat"]])
def test_a_processor_that_leaves_nothing_to_draw_is_named(
    model: Model, how: str, others: list[str]
) -> None:
    chosen = [*map(call, others), call("Spoils", how=how), *map(call, others)]
    driver = Driver(model)
    driver.submit(
        request(1, [5, 6], max_tokens=12),
        request(2, [7, 8], processors=chosen, max_tokens=12),
        request(3, [7, 8], processors=[call("NoRepeat")], max_tokens=6),
    )
    driver.run()
    assert len(driver.tokens[1]) == 12 and len(driver.tokens[3]) == 6
    assert driver.failed[2].code == "plugin_error" and len(driver.tokens[2]) == 2
    assert "plugin stranger" in driver.failed[2].message
    assert "its logits processor Spoils left no token" in driver.failed[2].message


def test_a_slow_plugin_is_named_and_counted(
    model: Model, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("budmlx.core.plugin_calls.WINDOW_SECONDS", 0.05)
    before = boundary.FAULT_COUNTS.get("stranger", {}).get("slow", 0)
    driver = Driver(model)
    driver.submit(request(1, [5, 6], processors=[call("Spoils", how="slow")], max_tokens=20))
    while 1 not in driver.failed and len(driver.tokens[1]) < 20:
        begin = time.perf_counter()
        driver.turn()
        PACE.step(time.perf_counter() - begin)
    assert boundary.FAULT_COUNTS["stranger"]["slow"] > before + 1
    assert caplog.text.count("Plugin stranger is slow: its calls take") == 1


@pytest.mark.parametrize("how", ["float", "outside", "negative", "init"])
def test_a_faulty_sampler_fails_its_row_alone(model: Model, how: str) -> None:
    _fails_alone(model, {"sampler": call("Broken", how=how)})


@pytest.mark.parametrize("name", ["Nothing", "NoRepeat"])
def test_a_missing_factory_or_method_fails_its_row_alone(model: Model, name: str) -> None:
    _fails_alone(model, {"sampler": call(name)})


def _fails_alone(model: Model, chosen: dict[str, object]) -> None:
    want = Driver(model)
    want.submit(request(1, [5, 6], max_tokens=12))
    want.run()
    driver = Driver(model)
    driver.submit(request(1, [5, 6], max_tokens=12))
    driver.turns(3)
    driver.submit(request(2, [7, 8], **chosen))
    driver.run()
    assert driver.tokens[1] == want.tokens[1]
    assert driver.failed[2].code == "plugin_error"
    assert "stranger" in driver.failed[2].message
    assert "secret" not in driver.failed[2].message


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"ids": [1, 2, 3]}, "int32[rows, 3] instead of int32[rows, 2] in ids"),
        ({"ids": [1.0, 2.0]}, "float32[rows, 2] instead of int32[rows, 2] in ids"),
        ({"key": "other"}, "nothing instead of int32[rows, 2] in ids"),
        ({"more": True}, "int32[rows, 2] instead of nothing in more"),
        ({"how": "raise"}, "failed in its sampler Layouts"),
    ],
)
@pytest.mark.parametrize("later", [False, True])
def test_a_row_with_a_state_of_another_layout_fails_alone(
    model: Model, options: dict[str, object], problem: str, later: bool
) -> None:
    driver = Driver(model)
    driver.submit(request(1, [5, 6], sampler=call("Layouts"), max_tokens=8))
    if later:
        driver.turns(3)
    driver.submit(
        request(2, [7, 8], sampler=call("Layouts", **options), max_tokens=8),
        request(3, [7, 8], sampler=call("Layouts", ids=[4, 5]), max_tokens=8),
    )
    driver.run()
    assert driver.tokens[1] == [1] * 8 and driver.tokens[3] == [4] * 8
    assert driver.failed.keys() == {2} and driver.failed[2].code == "plugin_error"
    message = driver.failed[2].message
    assert "plugin stranger" in message and problem in message


def test_a_state_that_changes_its_layout_is_the_plugins_fault(model: Model) -> None:
    driver = Driver(model)
    driver.submit(request(1, [5, 6], sampler=call("Changes"), max_tokens=8))
    driver.run()
    assert "float32[rows, 2] instead of int32[rows, 2] in ids" in driver.failed[1].message


def test_a_plugin_that_asks_is_told_the_size_of_the_vocabulary(model: Model) -> None:
    driver = Driver(model)
    driver.submit(request(1, [5, 6], sampler=call("LastId"), max_tokens=3))
    driver.run()
    assert driver.tokens[1] == [model.info.vocab_size - 1] * 3


def test_a_processor_cannot_change_what_others_see(model: Model) -> None:
    rows = [
        request(1, [5, 6], processors=[call("Broken", how="mutate")], logprobs=2, max_tokens=6),
        request(2, [5, 6], logprobs=2, max_tokens=6),
    ]
    driver = Driver(model)
    driver.submit(*rows)
    driver.run()
    assert driver.tokens[1] == [0] * 6, "the mutated logits are that row's own"
    tokens = [token for frame in driver.frames for token in frame.tokens]
    first, second = (next(token for token in tokens if token.id == i) for i in (1, 2))
    assert [i for i, _ in first.top] == [i for i, _ in second.top]
    assert [v for _, v in first.top] == pytest.approx([v for _, v in second.top])
