"""Who is loaded, who waits and who makes way, with engines that take no time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, cast

import pytest

from budmlx.config import Config
from budmlx.engine.engine import Engine
from budmlx.engine.hosts.host import HostStatus
from budmlx.engine.models.residency import Residency
from budmlx.engine.models.resident import ModelSpec, Resident
from budmlx.engine.models.room import ResidencyPolicy
from budmlx.errors import (
    EngineClosedError,
    EngineUnavailableError,
    ModelLoadError,
    OverloadedError,
)
from budmlx.protocol import CoreCounts, MemoryBudget

MIB = 2**20
PATIENCE = 20.0


class StandIn:
    """What the residency uses of an engine: its budget, its limit and its end."""

    def __init__(self, spec: ModelSpec, limit: int):
        self.spec = spec
        self.limits = [limit]
        self.keeps = True
        self.closed = False

    def status(self) -> HostStatus:
        budget = MemoryBudget(self.limits[-1], self.spec.weights, 0, 10**12)
        return HostStatus(True, budget=budget, counts=CoreCounts(busy=1.0))

    def set_memory_limit(self, limit: int) -> Future[MemoryBudget]:
        kept: Future[MemoryBudget] = Future()
        self.limits.append(limit)
        if self.keeps:
            kept.set_result(MemoryBudget(limit))
        return kept

    def close(self) -> None:
        self.closed = True


class House:
    """A residency whose loads can be held back, and what happened in it."""

    def __init__(self, **policy: Any):
        self.loads: list[str] = []
        self.go = threading.Event()
        self.go.set()
        self.broken: set[str] = set()
        self.arrived = threading.Event()
        self.arrived.set()
        self.missing: set[str] = set()
        self.engines: dict[str, StandIn] = {}
        self.most = 0
        self.residency = Residency(
            self._open, self._find, ResidencyPolicy(**{"min_stay": 0.0, **policy})
        )

    def model(
        self, name: str, weights: int = 100 * MIB, *, embeds: bool = False, **settings: Any
    ) -> Resident:
        return Resident.of(ModelSpec(name, Config(**settings), weights, embeds=embeds))

    def abroad(self, name: str) -> Resident:
        """A model that is not here yet."""
        return Resident.of(ModelSpec(name, Config(), fetch=True))

    def _find(self, spec: ModelSpec, notice: Callable[[str], None]) -> ModelSpec:
        notice("half of it is here")
        assert self.arrived.wait(PATIENCE)
        if spec.name in self.missing:
            raise ModelLoadError(f"{spec.name} is not in the hub.")
        return ModelSpec(spec.name, spec.config, 100 * MIB)

    def _open(self, spec: ModelSpec, limit: int | None, notice: Callable[[str], None]) -> Engine:
        self.loads.append(spec.name)
        open_now = [each for each in self.engines.values() if not each.closed]
        self.most = max(self.most, len(open_now) + 1)
        assert self.go.wait(PATIENCE)
        if spec.name in self.broken:
            raise ModelLoadError(f"{spec.name} is broken.")
        self.engines[spec.name] = engine = StandIn(spec, limit or 10**12)
        return cast("Engine", engine)

    def hold(self, resident: Resident) -> StandIn:
        held = self.residency.request(resident)
        engine = held.result(PATIENCE) if isinstance(held, Future) else held
        return cast("StandIn", engine)

    def use(self, resident: Resident) -> None:
        self.hold(resident)
        self.residency.release(resident)


@pytest.fixture
def house() -> Iterator[Callable[..., House]]:
    houses: list[House] = []

    def make(**policy: Any) -> House:
        houses.append(House(**policy))
        return houses[-1]

    yield make
    for each in houses:
        each.go.set()
        each.arrived.set()
        each.residency.close()


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


Make = Callable[..., House]


def test_one_load_for_all_who_wait(house: Make) -> None:
    here = house()
    here.go.clear()
    a = here.model("a")
    waiting = [here.residency.request(a) for _ in range(200)]
    assert all(isinstance(each, Future) for each in waiting)
    here.go.set()
    engines = {cast("Future[Engine]", each).result(PATIENCE) for each in waiting}
    assert len(engines) == 1 and here.loads == ["a"] and a.users == 200


def test_the_least_recently_used_model_goes_first_and_before_the_new_one_comes(
    house: Make,
) -> None:
    here = house(budget=2 * 132 * MIB)
    a, b, c = (here.model(name) for name in "abc")
    for each in (a, b, a, c):
        here.use(each)
    assert here.loads == ["a", "b", "c"] and here.most == 2
    assert [each.state for each in (a, b, c)] == ["loaded", "unloaded", "loaded"]
    assert here.engines["b"].closed


def test_all_of_the_budget_is_shared_out_again_and_again(house: Make) -> None:
    total = 1000 * MIB
    here = house(budget=total)
    a, b = here.model("a"), here.model("b", weights=300 * MIB)
    here.use(a)
    assert here.engines["a"].limits == [total]
    here.use(b)
    assert here.engines["a"].limits == [total, 400 * MIB]
    assert here.engines["b"].limits == [600 * MIB]
    here.residency.unload(b).result(PATIENCE)
    eventually(lambda: here.engines["a"].limits[-1] == total)


def test_the_first_model_tells_what_the_device_has(house: Make) -> None:
    here = house()
    here.use(here.model("a"))
    assert here.residency.total == 10**12


def test_pinned_models_stay_and_what_cannot_fit_is_refused_with_numbers(house: Make) -> None:
    here = house(budget=300 * MIB)
    pinned, other = here.model("pinned", pin=True), here.model("other", weights=200 * MIB)
    here.use(pinned)
    with pytest.raises(ModelLoadError, match=r"other needs about 232.0 MiB.*300.0 MiB.*pinned"):
        here.residency.request(other)
    assert here.loads == ["pinned"]


def test_vectors_do_not_push_out_the_chat_model_that_they_are_for(house: Make) -> None:
    here = house(budget=2 * 132 * MIB)
    older, chat, vectors, large = (
        here.model("older"),
        here.model("chat"),
        here.model("vectors", embeds=True),
        here.model("large", weights=150 * MIB, embeds=True),
    )
    for each in (older, chat, vectors):
        here.use(each)
    assert [each.state for each in (older, chat, vectors)] == ["unloaded", "loaded", "loaded"]
    waiting = here.residency.request(large)
    assert isinstance(waiting, Future)
    with pytest.raises(OverloadedError, match=r"large needs about 182\.0 MiB.*beside chat"):
        waiting.result(PATIENCE)
    assert (chat.state, vectors.state, large.state) == ("loaded", "loaded", "unloaded")
    assert here.residency.outlook(large) == ([], 0)
    here.residency.unload(chat).result(PATIENCE)
    here.use(large)
    here.use(chat)  # chat models push out the others
    assert (chat.state, vectors.state, large.state) == ("loaded", "unloaded", "unloaded")


def test_running_requests_end_before_their_model_goes(house: Make) -> None:
    here = house(budget=132 * MIB)
    a, b = here.model("a"), here.model("b")
    engine = here.hold(a)
    waiting = here.residency.request(b)
    assert isinstance(waiting, Future)
    eventually(lambda: a.state == "unloading")
    again = here.residency.request(a)  # behind b, since a is on its way out
    assert isinstance(again, Future) and not engine.closed
    here.residency.release(a)
    assert waiting.result(PATIENCE) and engine.closed
    assert not again.done()
    here.residency.release(b)
    assert again.result(PATIENCE)
    assert here.loads == ["a", "b", "a"]


def test_a_model_stays_for_a_while_whoever_waits(house: Make) -> None:
    here = house(budget=132 * MIB, min_stay=0.4)
    a, b = here.model("a"), here.model("b")
    here.use(a)
    loaded = a.loaded_at
    here.use(b)
    assert b.loaded_at - loaded >= 0.4


def test_nobody_waits_for_busy_models_by_the_policy_that_fails(house: Make) -> None:
    here = house(budget=132 * MIB, when_full="fail")
    a, b = here.model("a"), here.model("b")
    here.hold(a)
    waiting = here.residency.request(b)
    assert isinstance(waiting, Future)
    with pytest.raises(OverloadedError, match="no room"):
        waiting.result(PATIENCE)
    here.residency.release(a)
    here.use(b)  # a is idle now, and makes way
    assert here.loads == ["a", "b"]


def test_at_most_so_many_models(house: Make) -> None:
    here = house(most=1)
    a, b = here.model("a"), here.model("b")
    here.use(a)
    here.use(b)
    assert (a.state, b.state, here.most) == ("unloaded", "loaded", 1)


def test_a_model_without_requests_is_unloaded_after_its_time(house: Make) -> None:
    here = house()
    a, b = here.model("a", idle_unload=0.2), here.model("b")
    here.use(b)
    here.hold(a)
    time.sleep(0.3)
    assert a.state == "loaded"
    here.residency.release(a)
    eventually(lambda: a.state == "unloaded")
    assert b.state == "loaded"


@pytest.mark.parametrize("seconds", [1e12, 1e300])
def test_times_that_no_lock_can_wait_for(house: Make, seconds: float) -> None:
    here = house()
    a, b = here.model("a"), here.model("b", idle_unload=seconds)
    here.use(b)
    here.use(a)
    here.residency.keep(a, seconds)
    here.residency.unload(a).result(PATIENCE)
    here.use(a)
    assert here.loads == ["b", "a", "a"]


def test_a_time_to_stay_is_for_a_model_that_is_loaded(house: Make) -> None:
    here = house()
    a = here.model("a")
    here.residency.keep(a, 0.0)
    here.use(a)
    assert a.idle_until() is None and a.state == "loaded"


def test_what_fails_to_load_is_told_to_all_and_not_tried_at_once(house: Make) -> None:
    here = house()
    a, good = here.model("a"), here.model("good")
    here.broken.add("a")
    here.go.clear()
    waiting = [here.residency.request(a) for _ in range(3)]
    here.go.set()
    for each in waiting:
        assert isinstance(each, Future)
        with pytest.raises(ModelLoadError, match="a is broken"):
            each.result(PATIENCE)
    with pytest.raises(ModelLoadError, match="a is broken"):
        here.residency.request(a)
    assert here.loads == ["a"] and a.state == "failed"
    here.use(good)


def test_who_gives_up_waiting_holds_nothing(house: Make) -> None:
    here = house(budget=132 * MIB)
    a, b = here.model("a"), here.model("b")
    here.go.clear()
    first, second = here.residency.request(a), here.residency.request(a)
    queued = here.residency.request(b)
    assert isinstance(first, Future) and isinstance(second, Future)
    assert isinstance(queued, Future)
    here.residency.withdraw(a, first)
    here.residency.withdraw(b, queued)
    here.go.set()
    second.result(PATIENCE)
    assert a.users == 1
    here.residency.withdraw(a, second)
    assert a.users == 0
    time.sleep(0.05)
    assert here.loads == ["a"]


def test_who_leaves_has_the_model_loaded_anyway(house: Make) -> None:
    here = house()
    here.go.clear()
    a = here.model("a")
    waiting = here.residency.request(a)
    assert isinstance(waiting, Future)
    here.residency.leave(a, waiting)
    here.go.set()
    eventually(lambda: a.state == "loaded" and a.users == 0)


def test_memory_that_long_requests_keep_is_not_given_away(house: Make) -> None:
    here = house(budget=1000 * MIB, shrink_seconds=0.1)
    a, b = here.model("a"), here.model("b")
    here.hold(a).keeps = False
    waiting = here.residency.request(b)
    assert isinstance(waiting, Future)
    with pytest.raises(EngineUnavailableError, match="retry later"):
        waiting.result(PATIENCE)
    eventually(lambda: here.engines["a"].limits[-1] == 1000 * MIB)
    assert here.loads == ["a"]


def test_an_explicit_unload_waits_for_a_load_and_for_users(house: Make) -> None:
    here = house()
    a = here.model("a")
    here.go.clear()
    waiting = here.residency.request(a)
    eventually(lambda: here.loads == ["a"])
    gone = here.residency.unload(a)
    here.go.set()
    assert isinstance(waiting, Future)
    waiting.result(PATIENCE)
    assert not gone.done()
    here.residency.release(a)
    gone.result(PATIENCE)
    assert a.state == "unloaded" and here.engines["a"].closed
    here.residency.unload(a).result(PATIENCE)


def test_the_end(house: Make) -> None:
    here = house()
    a, b = here.model("a"), here.model("b")
    here.use(a)
    here.go.clear()
    waiting = here.residency.request(b)
    eventually(lambda: here.loads == ["a", "b"])
    closing = threading.Thread(target=here.residency.close)
    closing.start()
    assert isinstance(waiting, Future)
    with pytest.raises(EngineClosedError):
        waiting.result(PATIENCE)
    here.go.set()
    closing.join(PATIENCE)
    assert here.engines["a"].closed and here.engines["b"].closed
    with pytest.raises(EngineClosedError):
        here.residency.request(a)


def test_a_model_that_comes_from_the_hub_counts_before_it_is_loaded(house: Make) -> None:
    here = house(budget=132 * MIB)
    a, b, far = here.model("a"), here.model("b"), here.abroad("far")
    here.arrived.clear()
    waiting = [here.residency.request(far) for _ in range(5)]
    here.use(a)  # downloads hold up no other
    assert (far.state, far.progress) == ("loading", "half of it is here")
    here.arrived.set()
    for each in waiting:
        assert isinstance(each, Future) and each.result(PATIENCE)
        here.residency.release(far)
    assert here.loads == ["a", "far"] and here.most == 1 and here.engines["a"].closed
    here.use(b)
    here.arrived.clear()
    here.use(far)  # it is not fetched again
    assert here.most == 1


def test_a_download_that_fails_is_told_to_all(house: Make) -> None:
    here = house(budget=90 * MIB)
    lost, large = here.abroad("lost"), here.abroad("large")
    here.missing.add("lost")
    for far, message in (
        (lost, "lost is not in the hub"),
        (large, r"large needs about 132\.0 MiB"),
    ):
        here.arrived.clear()
        waiting = [here.residency.request(far) for _ in range(3)]
        here.arrived.set()
        for each in waiting:
            assert isinstance(each, Future)
            with pytest.raises(ModelLoadError, match=message):
                each.result(PATIENCE)
        assert far.state == "failed" and far.progress == ""
    assert here.loads == []


def test_the_end_does_not_wait_for_downloads(house: Make) -> None:
    here = house()
    here.arrived.clear()
    waiting = here.residency.request(here.abroad("far"))
    here.residency.close()
    assert isinstance(waiting, Future)
    with pytest.raises(EngineClosedError):
        waiting.result(PATIENCE)


def test_an_unload_of_what_fails_to_load_ends(house: Make) -> None:
    here = house()
    a = here.model("a")
    here.broken.add("a")
    here.go.clear()
    waiting = here.residency.request(a)
    eventually(lambda: here.loads == ["a"])
    gone = here.residency.unload(a)
    here.go.set()
    gone.result(PATIENCE)
    assert isinstance(waiting, Future) and waiting.exception(PATIENCE)


class Slow(Resident):
    """A model whose engine takes time to be taken away."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "engine" and value is None:
            time.sleep(0.05)
        super().__setattr__(name, value)


def test_counts_of_a_model_are_never_told_twice(house: Make) -> None:
    here = house()
    a = Slow.of(here.model("a").spec)
    here.use(a)
    seen, over = list[float](), threading.Event()

    def watch() -> None:
        while not over.is_set():
            seen.append(a.counts.busy)
            time.sleep(0.005)

    watching = threading.Thread(target=watch)
    watching.start()
    for _ in range(2):
        here.residency.unload(a).result(PATIENCE)
        time.sleep(0.05)
        here.use(a)
    over.set()
    watching.join()
    assert seen == sorted(seen) and a.counts.busy == 3
