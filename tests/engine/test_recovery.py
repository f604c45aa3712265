"""The bookkeeping of live rows over the deaths of a core, driven by a simulated core."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from budmlx.engine.recovery import Death, Recovery, RecoveryPolicy
from budmlx.errors import EngineUnavailableError, RequestFailedError
from budmlx.protocol import Cancel, GenerateRequest, RowFailed, StepFrame, Submit, ToCore, Token

POLICY = RecoveryPolicy()
STOP = 7


def request(
    row_id: int, *, length: int = 20, seed: int = 0, prompt: int = 0, stop: bool = False
) -> GenerateRequest:
    return GenerateRequest(
        id=row_id,
        prompt_ids=[prompt or row_id],
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        min_p=0.0,
        seed=seed,
        max_tokens=length,
        stop_ids=[STOP] if stop else [],
    )


def token_at(wanted: GenerateRequest, position: int) -> int:
    """What every core says at a position: the same whatever happened before."""
    return (wanted.prompt_ids[0] * 31 + wanted.seed * 17 + position * 13) % 50


def whole_text(wanted: GenerateRequest) -> list[int]:
    text: list[int] = []
    while len(text) < wanted.max_tokens and (not text or text[-1] not in wanted.stop_ids):
        text.append(token_at(wanted, len(text)))
    return text


class SimulatedCore:
    """Does what a core does with its messages; `fatal(request, produced)` crashes it."""

    def __init__(self, fatal: Callable[[GenerateRequest, int], bool], max_rows: int = 4):
        self._fatal = fatal
        self._max_rows = max_rows
        self._rows: dict[int, tuple[GenerateRequest, list[int]]] = {}
        self._started: set[int] = set()
        self.crashed = False

    @property
    def size(self) -> int:
        return len(self._rows)

    def take(self, message: ToCore) -> None:
        if isinstance(message, Cancel):
            self._rows.pop(message.id, None)
        elif isinstance(message, Submit):
            wanted = message.request
            assert wanted.id not in self._rows
            assert wanted.emitted_ids == whole_text(wanted)[: len(wanted.emitted_ids)]
            assert len(wanted.emitted_ids) < len(whole_text(wanted)), "resubmitted after its end"
            self._rows[wanted.id] = (wanted, list(wanted.emitted_ids))
            self.crashed = self.crashed or self._fatal(wanted, -1)

    def turn(self) -> StepFrame | None:
        """One turn of the scheduler, or None if the core crashed within it."""
        tokens, started = [], []
        for row_id in list(self._rows)[: self._max_rows]:
            wanted, text = self._rows[row_id]
            if row_id not in self._started:
                self._started.add(row_id)
                started.append(row_id)
            self.crashed = self.crashed or self._fatal(wanted, len(text))
            text.append(token_at(wanted, len(text)))
            reason: Literal["stop", "length"] | None = None
            if text[-1] in wanted.stop_ids:
                reason = "stop"
            elif len(text) == wanted.max_tokens:
                reason = "length"
            tokens.append(Token(row_id, text[-1], reason))
            if reason:
                del self._rows[row_id]
        if self.crashed:
            return None
        return StepFrame(tokens=tokens, started=started, running=len(self._rows))


class Client:
    """Checks that every row gets its tokens in order, once, and one outcome."""

    def __init__(self) -> None:
        self.requests: dict[int, GenerateRequest] = {}
        self.texts: dict[int, list[int]] = {}
        self.started: set[int] = set()
        self.outcomes: dict[int, str] = {}

    def submitted(self, wanted: GenerateRequest) -> None:
        self.requests[wanted.id] = wanted
        self.texts[wanted.id] = []

    def cancelled(self, row_id: int) -> None:
        self.outcomes[row_id] = "cancelled"

    @property
    def live(self) -> list[int]:
        return [row_id for row_id in self.requests if row_id not in self.outcomes]

    def see(self, frame: StepFrame) -> None:
        for row_id in frame.started:
            assert row_id not in self.started
            assert row_id not in self.outcomes
            self.started.add(row_id)
        for token in frame.tokens:
            assert token.id not in self.outcomes
            wanted, text = self.requests[token.id], self.texts[token.id]
            assert token.token == token_at(wanted, len(text))
            text.append(token.token)
            if token.reason:
                assert text == whole_text(wanted)
                self.outcomes[token.id] = "done"
        self.fail(frame.failed)

    def fail(self, failed: list[RowFailed]) -> None:
        for failure in failed:
            assert failure.id in self.requests
            assert failure.id not in self.outcomes
            self.outcomes[failure.id] = failure.code


class World:
    """A recovery, its client and a succession of simulated cores, one event at a time."""

    def __init__(self, fatal: Callable[[GenerateRequest, int], bool] = lambda _r, _n: False):
        self.fatal = fatal
        self.recovery = Recovery(POLICY)
        self.client = Client()
        self.now = 0.0
        self.deaths: list[Death] = []
        self.to_core: deque[ToCore] = deque()
        self.from_core: deque[StepFrame] = deque()
        self.core: SimulatedCore | None = None
        self.restart()

    def submit(self, wanted: GenerateRequest) -> None:
        messages = self.recovery.submit(wanted, self.now)
        self.client.submitted(wanted)
        self.to_core += messages

    def cancel(self, row_id: int) -> None:
        if row_id in self.client.live:
            self.client.cancelled(row_id)
        self.to_core += self.recovery.cancel(row_id)

    def restart(self) -> None:
        self.core = SimulatedCore(self.fatal)
        self.to_core = deque(self.recovery.loaded(self.now))
        assert self.to_core or not self.client.live

    def core_reads(self, count: int = 1000) -> None:
        for _ in range(min(count, len(self.to_core))):
            assert self.core is not None
            self.core.take(self.to_core.popleft())
            if self.core.crashed:
                return self.die()

    def core_turns(self) -> None:
        assert self.core is not None
        frame = self.core.turn()
        if frame is None:
            return self.die()
        self.from_core.append(frame)

    def deliver(self, count: int = 1000) -> None:
        for _ in range(min(count, len(self.from_core))):
            frame, messages = self.recovery.frame(self.from_core.popleft(), self.now)
            self.client.see(frame)
            self.to_core += messages

    def die(self, frames_lost: int = 0) -> None:
        """The core goes; its last frames may be lost with it."""
        self.deliver(max(0, len(self.from_core) - frames_lost))
        self.from_core.clear()
        self.core = None
        self.deaths.append(self.recovery.died(self.now))
        self.client.fail(self.deaths[-1].failed)

    def step(self) -> None:
        """Everything that can happen, in the usual order."""
        if self.core is None:
            self.now += self.deaths[-1].delay
            self.restart()
        self.core_reads()
        if self.core is not None:
            self.core_turns()
        self.deliver()

    def run(self, most_steps: int = 5000) -> None:
        for _ in range(most_steps):
            if not self.client.live:
                return
            self.step()
        raise AssertionError(f"rows without an outcome: {self.client.live}")


def test_rows_that_ran_resume_alone_and_then_everything_runs() -> None:
    world = World()
    for row_id in range(1, 4):
        world.submit(request(row_id, length=30))
    world.step()
    world.submit(request(10, length=30))  # not started when the core dies
    world.die()
    world.submit(request(11, length=30))  # comes while there is no core
    assert world.deaths[0].delay == 0
    world.restart()
    for suspect in (1, 2, 3):
        (message,) = [m for m in world.to_core if isinstance(m, Submit)]
        assert message.request.prompt_ids == [suspect]
        for _ in range(POLICY.probation_tokens):
            assert world.core is not None
            world.core_reads()
            assert world.core.size == 1
            world.core_turns()
            world.deliver()
    world.core_reads()
    assert world.core is not None
    assert world.core.size == 5
    world.run()
    assert set(world.client.outcomes.values()) == {"done"}


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
    failure = RowFailed(inside, "non_finite_logits", "why")
    seen, _ = recovery.frame(StepFrame(failed=[failure]), 0.0)
    assert seen == StepFrame(failed=[RowFailed(8, "non_finite_logits", "why")])


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
    world.submit(msgspec.structs.replace(twin, choice=1, fork=3))
    world.run()
    assert [world.client.outcomes[n] for n in range(1, 6)] == ["done"] * 3 + ["request_failed"] * 2
    assert len(world.deaths) == 2
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
    assert len(world.deaths) == 3


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


def kill_until_open(world: World) -> None:
    while not world.recovery.breaker_reason(world.now):
        if world.core is None:
            world.restart()
        world.die()


def test_delays_grow_until_the_breaker_opens() -> None:
    world = World()
    for _ in range(4):
        world.die()
        world.restart()
    world.submit(request(1))
    kill_until_open(world)
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
    kill_until_open(world)
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
    kill_until_open(world)
    world.restart()
    world.submit(request(1))
    world.run()
    world.die()
    assert world.deaths[-1].delay == 0
    assert not world.recovery.breaker_reason(world.now)


def test_a_core_that_stays_idle_for_the_back_off_counts_as_healthy() -> None:
    world = World()
    kill_until_open(world)
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


@settings(max_examples=60, deadline=None)
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
    assert len(world.deaths) <= 3


class AnyOrder(RuleBasedStateMachine):
    """Every order of submissions, cancellations, frames, losses, deaths and restarts."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(lambda r, n: r.prompt_ids[0] % 10 == 0 and n == r.prompt_ids[0] // 100)
        self.ids = iter(range(1, 10**6))

    @rule(prompt=st.integers(1, 1200), length=st.integers(1, 25), stop=st.booleans())
    def submit(self, prompt: int, length: int, stop: bool) -> None:
        row_id = next(self.ids)
        wanted = request(row_id, prompt=prompt, length=length, seed=row_id % 5, stop=stop)
        try:
            self.world.submit(wanted)
        except EngineUnavailableError:
            assert self.world.core is None
        except RequestFailedError:
            assert prompt % 10 == 0 or "request_failed" in self.world.client.outcomes.values()

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        known = sorted(self.world.client.requests)
        if known:
            self.world.cancel(data.draw(st.sampled_from(known)))

    @precondition(lambda self: self.world.core is not None)
    @rule(count=st.integers(1, 5))
    def core_reads(self, count: int) -> None:
        self.world.core_reads(count)

    @precondition(lambda self: self.world.core is not None)
    @rule()
    def core_turns(self) -> None:
        self.world.core_turns()

    @rule(count=st.integers(1, 5))
    def deliver(self, count: int) -> None:
        self.world.deliver(count)

    @precondition(lambda self: self.world.core is not None)
    @rule(frames_lost=st.integers(0, 3))
    def die(self, frames_lost: int) -> None:
        self.world.die(frames_lost)

    @precondition(lambda self: self.world.core is None)
    @rule(patience=st.floats(0, 1))
    def restart(self, patience: float) -> None:
        self.world.now += self.world.deaths[-1].delay * patience
        self.world.restart()

    @invariant()
    def held_rows_are_live_rows(self) -> None:
        assert 0 <= self.world.recovery.held <= len(self.world.client.live)

    def teardown(self) -> None:
        self.world.run()


AnyOrder.TestCase.settings = settings(max_examples=80, stateful_step_count=60, deadline=None)
TestAnyOrder = AnyOrder.TestCase
