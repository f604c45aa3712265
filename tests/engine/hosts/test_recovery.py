"""The bookkeeping of live rows over the deaths of a core, driven by a simulated core."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budmlx.engine.hosts.recovery import Recovery
from budmlx.errors import EngineUnavailableError, PluginError, RequestFailedError
from budmlx.protocol import GenerateRequest, RowFailed, StepFrame, Submit, Token
from tests.amount import examples
from tests.engine.hosts.simulated_core import POLICY, World, request


def test_rows_that_ran_resume_in_halves_and_then_everything_runs() -> None:
    world = World()
    for row_id in range(1, 4):
        world.submit(request(row_id, length=30))
    world.step()
    world.submit(request(10, length=30))  # not started when the core dies
    world.die()
    world.submit(request(11, length=30))  # comes while there is no core
    assert world.deaths[0].delay == 0
    world.restart()
    for half in ([1, 2], [3]):
        messages = [m for m in world.to_core if isinstance(m, Submit)]
        assert [message.request.prompt_ids for message in messages] == [[key] for key in half]
        for _ in range(POLICY.probation_tokens):
            assert world.core is not None
            world.core_reads()
            assert world.core.size == len(half)
            world.core_turns()
            world.deliver()
    world.core_reads()
    assert world.core is not None
    assert world.core.size == 5
    world.run()
    assert set(world.client.outcomes.values()) == {"done"}


@pytest.mark.parametrize("poison", [0, 5, 11, 23, 31])
@pytest.mark.parametrize("fatal_at", [0, 6])
def test_one_poison_request_of_many_is_found_with_few_deaths(poison: int, fatal_at: int) -> None:
    def fatal(wanted: GenerateRequest, produced: int) -> bool:
        return wanted.prompt_ids == [666] and produced == fatal_at

    world = World(fatal, max_rows=64)
    for key in range(32):
        world.submit(request(key, prompt=666 if key == poison else key + 1, length=200))
    world.run()
    assert world.client.outcomes.pop(poison) == "request_failed"
    assert set(world.client.outcomes.values()) == {"done"}
    unseen = fatal_at == 0  # the first time, nobody was seen to start
    assert len(world.deaths) <= 1 + unseen + 5
    with pytest.raises(RequestFailedError, match="crashed twice"):
        world.submit(request(99, prompt=666, length=200))


def test_a_core_that_dies_of_everything_opens_the_breaker_all_the_same() -> None:
    world = World(lambda _wanted, _produced: True, max_rows=64)
    for key in range(32):
        world.submit(request(key))
    while not world.recovery.breaker_reason(world.now):
        if world.core is None:
            world.restart()
        world.core_reads()
    outcomes = list(world.client.outcomes.values())
    assert len(outcomes) == 32
    assert outcomes.count("request_failed") <= POLICY.breaker_deaths
    assert len(world.deaths) <= POLICY.breaker_deaths + 2 * 5


def test_frames_are_passed_on_whole() -> None:
    recovery = Recovery(POLICY)
    recovery.submit(request(8), 0.0)
    (message,) = recovery.loaded(0.0)
    assert isinstance(message, Submit)
    inside = message.request.id
    told = Token(inside, 3, None, -0.5, [(3, -0.5), (4, -1.5)])
    seen, messages = recovery.frame(
        StepFrame(tokens=[told], started=[inside], waiting=2, running=1, memory=99), 0.0
    )
    assert messages == []
    token = Token(8, 3, None, -0.5, [(3, -0.5), (4, -1.5)])
    assert seen == StepFrame(tokens=[token], started=[8], waiting=2, running=1, memory=99)
    failure = RowFailed(inside, "invalid_grammar", "why", "response_format")
    seen, _ = recovery.frame(StepFrame(failed=[failure]), 0.0)
    assert seen == StepFrame(failed=[RowFailed(8, "invalid_grammar", "why", "response_format")])


def test_a_frame_of_a_parked_row_that_was_under_way_is_not_delivered_twice() -> None:
    world = World()
    world.submit(request(1))
    world.submit(request(2))
    world.step()
    world.die()
    world.restart()
    world.core_reads()
    for _ in range(10):  # the core runs ahead of the recovery
        world.core_turns()
    world.deliver(POLICY.probation_tokens)
    world.cancel(2)  # ends the probation of the other, so that the first one is back at once
    world.core_reads()
    world.run()
    assert world.client.outcomes == {1: "done", 2: "cancelled"}


def test_a_row_that_kills_the_core_twice_is_failed_and_refused() -> None:
    world = World(lambda wanted, produced: wanted.prompt_ids == [666] and produced == 3)
    for row_id in range(1, 4):
        world.submit(request(row_id))
    world.submit(request(4, prompt=666))
    twin = request(5, prompt=666, seed=9)  # another choice of the same request
    world.submit(msgspec.structs.replace(twin, choice=1, fork=3, owner="b"))
    world.run()
    assert [world.client.outcomes[n] for n in range(1, 6)] == ["done"] * 3 + ["request_failed"] * 2
    assert len(world.deaths) == 3  # with four at once, with a half of them, alone
    with pytest.raises(RequestFailedError, match="crashed twice"):
        world.submit(request(6, prompt=666, seed=1))
    world.submit(request(7, prompt=666, length=21))  # another length is another request
    world.cancel(7)
    world.now += POLICY.refusal_seconds + 1
    world.submit(request(8, prompt=666))
    assert 8 in world.client.live


def test_a_row_that_kills_the_core_before_it_is_seen_to_start_is_found_out() -> None:
    world = World(lambda wanted, _produced: wanted.prompt_ids == [666])
    for row_id in range(1, 4):
        world.submit(request(row_id, length=50))
    world.step()
    world.submit(request(4, prompt=666))
    world.submit(request(5, length=50))
    world.run()
    outcomes = world.client.outcomes
    assert outcomes.pop(4) == "request_failed"
    assert set(outcomes.values()) == {"done"}
    assert len(world.deaths) <= 2 + 3  # unseen, seen, and halves of five suspects


def test_a_row_alone_is_failed_at_its_second_death() -> None:
    world = World(lambda _wanted, _produced: True)
    world.submit(request(1))
    world.run()
    assert world.client.outcomes == {1: "request_failed"}
    assert len(world.deaths) == 2


def test_progress_clears_a_row_of_an_old_death() -> None:
    world = World()
    world.submit(request(1, length=100))
    for _ in range(4):
        world.step()
        world.die()
        for _ in range(POLICY.probation_tokens + 1):
            world.step()
    assert 1 in world.client.live


def test_a_suspect_that_is_cancelled_makes_room_for_the_next() -> None:
    world = World()
    world.submit(request(1))
    world.submit(request(2))
    world.step()
    world.die()
    world.restart()
    world.core_reads()
    world.cancel(1)
    world.core_reads()
    assert world.core is not None
    assert world.core.size == 1
    world.run()
    assert world.client.outcomes == {1: "cancelled", 2: "done"}


def test_a_suspect_is_not_blamed_for_one_that_was_just_parked() -> None:
    """The core dies of it before it reads that it should stop."""
    world = World(lambda wanted, n: wanted.prompt_ids == [666] and n - len(wanted.emitted_ids) == 5)
    world.submit(request(1, prompt=666, length=16))
    world.submit(request(2))
    for _ in range(3):
        world.step()
    world.die()
    world.restart()
    world.core_reads()
    for _ in range(POLICY.probation_tokens):
        world.core_turns()
        world.deliver()
    for _ in range(2):
        world.core_turns()
    assert world.core is None and not world.client.outcomes
    world.run()
    assert world.client.outcomes == {1: "done", 2: "done"}


def test_delays_grow_until_the_breaker_opens() -> None:
    world = World()
    for _ in range(4):
        world.die()
        world.restart()
    world.submit(request(1))
    world.die_until_breaker_opens()
    assert [death.delay for death in world.deaths] == [0.0, 0.5, 1.0, 2.0, 30.0]
    assert world.client.outcomes == {1: "engine_unavailable"}
    with pytest.raises(EngineUnavailableError, match="5 times") as caught:
        world.submit(request(2))
    assert caught.value.retry_after == 30
    world.now += 29.5
    assert "in 1 s" in world.recovery.breaker_reason(world.now)


def test_all_rows_get_an_outcome_when_a_poison_request_opens_the_breaker() -> None:
    world = World(lambda wanted, _produced: wanted.prompt_ids == [666])
    for _ in range(3):
        world.die()
        world.restart()
    world.submit(request(1, prompt=666))
    world.core_reads()
    world.submit(request(2))
    world.restart()
    world.core_reads()
    assert world.client.outcomes == {1: "request_failed", 2: "engine_unavailable"}


def test_the_breaker_half_opens_and_a_death_opens_it_for_longer() -> None:
    world = World()
    world.die_until_breaker_opens()
    for row_id, delay in enumerate((60.0, 120.0, 240.0, 300.0, 300.0)):
        world.restart()
        assert not world.recovery.breaker_reason(world.now)
        world.submit(request(row_id))
        world.die()
        assert world.client.outcomes[row_id] == "engine_unavailable"
        assert world.deaths[-1].delay == delay
        assert world.recovery.breaker_reason(world.now)


def test_a_completed_row_closes_the_breaker() -> None:
    world = World()
    world.die_until_breaker_opens()
    world.restart()
    world.submit(request(1))
    world.run()
    world.die()
    assert world.deaths[-1].delay == 0
    assert not world.recovery.breaker_reason(world.now)


def test_a_core_that_stays_idle_for_the_back_off_counts_as_healthy() -> None:
    world = World()
    world.die_until_breaker_opens()
    world.restart()
    for _ in range(int(POLICY.breaker_delay) + 1):
        world.now += 1
        world.core_turns()
        world.deliver()
    world.die()
    assert world.deaths[-1].delay == 0


def test_a_core_that_hangs_on_a_row_does_not_count_as_healthy() -> None:
    world = World()
    for row_id in range(5):
        world.restart()
        world.submit(request(row_id + 1, length=500))
        world.core_reads()
        for _ in range(int(POLICY.breaker_delay) + 1):
            world.now += 1
            world.recovery.frame(StepFrame(running=1), world.now)
        world.die()
    assert world.recovery.breaker_reason(world.now)


def test_rows_that_chose_a_plugin_that_ended_the_core_run_alone_and_no_other_does() -> None:
    world = World()
    for row_id in range(1, 4):
        world.submit(request(row_id, length=30))
    world.submit(request(4, plugins="ab"))
    world.submit(request(5, plugins="ca"))
    world.submit(request(6, plugins="b"))
    world.step()
    world.submit(request(7, plugins="a"))  # still on its way
    world.die(plugin="a")
    assert world.deaths[0].failed == [] and world.deaths[0].delay == 0
    for suspect in (4, 5, 7):
        world.restart() if world.core is None else None
        world.core_reads()
        assert world.core is not None and world.core.size == 1
        if suspect == 5:
            world.die(plugin="a")
            (failure,) = world.deaths[-1].failed
            assert (failure.id, failure.code) == (5, "plugin_error")
            assert "plugin a" in failure.message and "it hung" in failure.message
            continue
        for _ in range(POLICY.probation_tokens):
            world.core_turns()
            world.deliver()
    world.core_reads()
    assert world.core is not None and world.core.size == 6
    with pytest.raises(PluginError, match="plugin a"):
        world.submit(request(8, prompt=5, plugins="ca"))
    world.submit(request(9, plugins="ca"))
    world.run()
    assert world.client.outcomes == {5: "plugin_error"} | dict.fromkeys(
        (1, 2, 3, 4, 6, 7, 9), "done"
    )


def test_the_choices_of_one_request_fail_together_in_a_plugin() -> None:
    world = World()
    for row_id in (1, 2):
        world.submit(request(row_id, prompt=9, plugins="a"))
    world.step()
    world.die(plugin="a")
    assert [failure.id for failure in world.deaths[0].failed] == [1, 2]


def fails_in_a_plugin(world: World, row_id: int, option: int) -> None:
    """A request of its own runs alone, and the plugin ends the core."""
    if world.core is None:
        world.restart()
    world.submit(request(row_id, plugins="a", option=option))
    world.step()
    world.die(plugin="a")


def refused(world: World, row_id: int, option: int) -> str:
    """What is said to a request that is refused; empty if it is taken."""
    if world.core is None:
        world.restart()
    try:
        world.submit(request(row_id, plugins="a", option=option))
    except PluginError as error:
        return error.message
    world.run()
    return ""


def test_one_option_costs_nobody_else_the_plugin() -> None:
    world = World()
    fails_in_a_plugin(world, 1, option=1)
    assert "This request is refused for another 600 s" in refused(world, 1, 1)
    assert not refused(world, 2, 1), "one request is no reason to refuse others"
    for row_id in range(3, 9):
        world.now += 5000 * (row_id % 2)
        fails_in_a_plugin(world, row_id, option=1)
        if refused(world, 100 + row_id, 1):
            assert not refused(world, 200 + row_id, 2)
    assert "refused with these options" in refused(world, 10, 1)
    assert not refused(world, 11, 2)


def test_options_are_tried_again_after_a_back_off_that_doubles() -> None:
    world = World()
    for row_id, pause in ((1, 60), (11, 120), (21, 240)):
        fails_in_a_plugin(world, row_id, option=1)
        fails_in_a_plugin(world, row_id + 1, option=1)
        assert f"with these options for another {pause} s" in refused(world, row_id + 2, 1)
        world.now += pause
        assert not refused(world, row_id + 3, 1)
        world.now += 700  # no failure counts any more


def test_a_plugin_is_disabled_for_a_while_when_different_options_fail() -> None:
    world = World()
    for option in (1, 2, 3):
        assert not refused(world, 50 + option, 9)
        fails_in_a_plugin(world, option, option)
    assert "The plugin is disabled for another 60 s" in refused(world, 60, 9)
    world.now += 60
    assert not refused(world, 61, 9)
    fails_in_a_plugin(world, 4, option=4)
    assert not refused(world, 62, 9), "it is counted anew"


def test_failures_of_long_ago_do_not_count() -> None:
    world = World()
    for option in (1, 2, 3, 4, 5):
        fails_in_a_plugin(world, option, option)
        world.now += 400
    assert not refused(world, 60, 9)


def test_a_request_that_was_given_up_while_a_plugin_hung_is_the_guilty_one() -> None:
    world = World()
    world.submit(request(1))
    world.submit(request(2, plugins="a"))
    world.step()
    world.cancel(2)
    world.die(plugin="a")
    assert world.deaths[0].failed == []
    assert "This request is refused" in refused(world, 2, 0)
    world.run()
    assert world.client.outcomes[1] == "done"


def test_deaths_in_plugins_open_no_breaker() -> None:
    world = World()
    world.submit(request(1))
    for plugin in "abcdefgh":
        world.step()
        world.die(plugin=plugin)
        assert world.deaths[-1].delay == 0
        world.restart()
    assert world.client.live == [1]


def test_a_plugin_that_is_named_again_though_nobody_chose_it_is_not_believed() -> None:
    world = World()
    for _ in range(3):
        world.die(plugin="a")
        world.restart()
    assert [death.delay for death in world.deaths] == [0.0, 0.0, 0.5]


def test_a_suspect_stays_one_when_a_plugin_ends_the_core_meanwhile() -> None:
    world = World()
    world.submit(request(1, plugins="a"))
    world.submit(request(2))
    world.submit(request(3))
    world.step()
    world.die()
    world.restart()
    world.core_reads()
    world.cancel(1)  # the core is in the plugin and hears of nothing any more
    world.die(plugin="a")
    world.restart()
    world.core_reads()
    assert world.core is not None
    assert world.core.size == 1
    world.run()
    assert world.client.outcomes == {1: "cancelled", 2: "done", 3: "done"}


@settings(max_examples=examples(40), deadline=None)
@given(
    bystanders=st.lists(st.integers(1, 60), min_size=0, max_size=8),
    fatal_at=st.integers(-1, 12),
    arrival=st.integers(0, 8),
    steps_before=st.integers(0, 12),
)
def test_a_poison_request_never_harms_others(
    bystanders: list[int], fatal_at: int, arrival: int, steps_before: int
) -> None:
    world = World(lambda wanted, produced: wanted.prompt_ids == [666] and produced == fatal_at)
    arrival = min(arrival, len(bystanders))
    for row_id, length in enumerate(bystanders[:arrival]):
        world.submit(request(row_id + 1, length=length))
    for _ in range(steps_before):
        world.step()
    world.submit(request(100, prompt=666, length=40))
    for row_id, length in enumerate(bystanders[arrival:], arrival):
        world.submit(request(row_id + 1, length=length))
    world.run()
    assert world.client.outcomes.pop(100) == "request_failed"
    assert set(world.client.outcomes.values()) <= {"done"}
    unseen = fatal_at < 0  # a core that dies before it tells of a row may not have parked others
    assert len(world.deaths) <= 2 + unseen + math.ceil(math.log2(len(bystanders) + 1))


def test_a_core_that_dies_while_it_warms_up_is_restarted_more_and_more_rarely() -> None:
    world = World()
    world.submit(request(1))
    world.die()
    for _ in range(3):
        world.die(warming=True)
    delays = [POLICY.warmup_delay * factor for factor in (1, 2, 4)]
    assert [death.delay for death in world.deaths] == [0, *delays]
    world.restart()
    world.die()
    assert world.recovery.breaker_reason(world.now), "they count as deaths, too"
