"""The life of a server, step by step at random: whatever happens, each request has one end."""

from __future__ import annotations

import http.client
import itertools
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from budmlx.config.key_file import new_key
from tests.amount import examples
from tests.soak.clients import said
from tests.soak.endings import ending, excused
from tests.soak.world import KEY, OTHER, TEXT, Figures, Reply, World, whole

PROMPTS = ("Canary one", "Canary two " * 20, "the quick brown fox jumps over the lazy dog")
MOST = 6
"""Streams at once."""
NAMES = (f"life-{number}" for number in itertools.count())


def body(prompt: str, model: str = TEXT, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": prompt}]
    greedy = {"temperature": 0, "max_tokens": 120, "ignore_eos": True}
    return {"model": model, "messages": messages, **greedy, **more}


class Talk:
    """A request whose reply nobody has read yet."""

    def __init__(self, world: World, prompt: str, stream: bool, key: str = KEY):
        self.prompt, self.name = prompt, next(NAMES)
        asked = body(prompt, stream=stream)
        self._connection = world.send("/v1/chat/completions", asked, key, X_Request_Id=self.name)
        self._response: http.client.HTTPResponse | None = None

    def begun(self) -> http.client.HTTPResponse:
        """The reply, when its head is there."""
        if self._response is None:
            self._response = self._connection.getresponse()
        return self._response

    def read(self) -> Reply:
        """All of the reply."""
        try:
            return whole(self.begun())
        finally:
            self._connection.close()

    def leave(self) -> None:
        """Go away."""
        self._connection.close()
        if self._response is not None:
            self._response.close()


class Life(RuleBasedStateMachine):
    """One life after the other of the same server; at the end of each it is as it was."""

    world: World
    expected: dict[str, list[str]]
    before: Figures
    talks = Bundle("talks")
    keys = Bundle("keys")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[Talk] = []

    @precondition(lambda self: len(self.open) < MOST)
    @rule(target=talks, prompt=st.sampled_from(PROMPTS), stream=st.booleans())
    def ask(self, prompt: str, stream: bool) -> Talk:
        self.open.append(talk := Talk(self.world, prompt, stream))
        return talk

    @rule(talk=talks)
    def wait_for_its_head(self, talk: Talk) -> None:
        talk.begun()

    @rule(talk=consumes(talks))
    def read(self, talk: Talk) -> None:
        self.open.remove(talk)
        self.judge(talk, talk.read())

    @rule(talk=consumes(talks))
    def leave(self, talk: Talk) -> None:
        self.open.remove(talk)
        talk.leave()

    @rule(talk=talks)
    def cancel(self, talk: Talk) -> None:
        reply = self.world.admin(f"/v1/requests/{talk.name}/cancel", b"", method="POST")
        assert reply.status in (200, 404), reply

    @rule(target=keys)
    def add_a_key(self) -> tuple[str, str]:
        name, key = next(NAMES), new_key()
        self.world.add_key(name, key)
        assert self.world.ask("/v1/models", key=key).status == 200
        return name, key

    @rule(key=consumes(keys), prompt=st.sampled_from(PROMPTS))
    def revoke(self, key: tuple[str, str], prompt: str) -> None:
        talk = Talk(self.world, prompt, True, key[1])
        head = talk.begun().status
        self.world.revoke(key[0])
        refused = self.world.ask("/v1/chat/completions", body(prompt), key[1])
        assert refused.status == 401
        if head == 200:  # what had begun goes on
            self.judge(talk, talk.read())
        else:
            talk.leave()

    @rule(what=st.sampled_from(["load", "unload"]))
    def move_a_model(self, what: str) -> None:
        assert self.world.admin(f"/v1/models/{what}", {"model": OTHER}).status == 200

    @rule(prompt=st.sampled_from(PROMPTS))
    def ask_the_other_model(self, prompt: str) -> None:
        asked = body(prompt, OTHER, max_tokens=3)
        reply = self.world.ask("/v1/chat/completions", asked)
        assert ending(reply) == "complete" or excused(reply)

    @rule(seconds=st.integers(1, 99))
    def reload(self, seconds: int) -> None:
        self.world.configure(f"store_max_days = {seconds}\n")
        assert self.world.admin("/v1/reload", {}).status == 200

    @rule(number=st.integers(0, 3))
    def kill_a_core(self, number: int) -> None:
        self.world.kill_core(number)

    @invariant()
    def answers(self) -> None:
        assert self.world.ask("/health").status == 200

    def judge(self, talk: Talk, reply: Reply) -> None:
        """What came is whole, and the same as ever; or it says why not."""
        if ending(reply) == "complete":
            assert said(reply) == self.expected[talk.prompt], talk.prompt
        else:
            assert excused(reply), reply

    def teardown(self) -> None:
        for talk in self.open:
            talk.leave()
        self.world.at_rest()
        for prompt, texts in self.expected.items():
            assert said(self.world.ask("/v1/chat/completions", body(prompt))) == texts
        now = self.settled()
        assert now.threads <= self.before.threads + 40  # pools, which have a limit
        assert now.files <= self.before.files + 3, (self.before, now)
        assert len(now.rss) <= 1 + 2, "more processes than models"

    def settled(self) -> Figures:
        """What is held when what was ended has been collected."""
        end = time.monotonic() + 5
        while (now := self.world.figures()).files > self.before.files and time.monotonic() < end:
            time.sleep(0.1)
        return now


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("life"), preload=(TEXT,))
    try:
        yield world
        cores = world.cores()
        assert world.stop() == 0
        assert not [core for core in cores if core.is_running()]
        assert "Traceback" not in (world.directory / "log").read_text()
    finally:
        world.close()


@pytest.mark.hypothesis
@pytest.mark.timeout(1800)
def test_each_request_has_one_end_whatever_happens(world: World) -> None:  # LIMITS L15
    Life.world = world
    Life.expected = {p: said(world.ask("/v1/chat/completions", body(p))) for p in PROMPTS}
    Life.before = world.figures()
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=examples(2),
            stateful_step_count=8 if examples(1) == 1 else 40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
