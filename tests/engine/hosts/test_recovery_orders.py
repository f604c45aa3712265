"""The recovery under every order of events that hypothesis can think of."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from budmlx.engine.hosts.plugin_faults import chosen_plugins
from budmlx.errors import EngineUnavailableError, PluginError, RequestFailedError
from tests.amount import examples
from tests.engine.hosts.simulated_core import World, request


class AnyOrder(RuleBasedStateMachine):
    """Every order of submissions, cancellations, frames, losses, deaths and restarts."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(lambda r, n: r.prompt_ids[0] % 10 == 0 and n == r.prompt_ids[0] // 100)
        self.ids = iter(range(1, 10**6))
        self.hung: set[str] = set()

    @rule(
        prompt=st.integers(1, 1200),
        length=st.integers(1, 25),
        stop=st.booleans(),
        plugins=st.sampled_from(["", "", "a", "b", "ab", "cb"]),
    )
    def submit(self, prompt: int, length: int, stop: bool, plugins: str) -> None:
        row_id = next(self.ids)
        seed = row_id % 5
        wanted = request(
            row_id, prompt=prompt, length=length, seed=seed, stop=stop, plugins=plugins
        )
        try:
            self.world.submit(wanted)
        except PluginError:
            assert self.hung & set(plugins)
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

    @precondition(lambda self: self.world.core is not None)
    @rule(plugin=st.sampled_from("abc"))
    def hang(self, plugin: str) -> None:
        first = plugin not in self.hung
        self.world.die(plugin=plugin)
        self.hung.add(plugin)
        death = self.world.deaths[-1]
        if first or any(failure.code == "plugin_error" for failure in death.failed):
            assert death.delay == 0
            for failure in death.failed:
                assert plugin in chosen_plugins(self.world.client.requests[failure.id])

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


AnyOrder.TestCase.settings = settings(
    max_examples=examples(40), stateful_step_count=60, deadline=None
)
TestAnyOrder = AnyOrder.TestCase
