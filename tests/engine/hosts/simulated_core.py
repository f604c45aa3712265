"""A core, its client and their deaths, simulated for the tests of the recovery."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Literal

from budmlx.engine.hosts.recovery import Death, Recovery, RecoveryPolicy
from budmlx.protocol import (
    Cancel,
    GenerateRequest,
    PluginCall,
    RowFailed,
    StepFrame,
    Submit,
    ToCore,
    Token,
)
from budmlx.types import SamplingParams

POLICY = RecoveryPolicy()
STOP = 7


def request(
    row_id: int,
    *,
    length: int = 20,
    seed: int = 0,
    prompt: int = 0,
    stop: bool = False,
    plugins: str = "",
    option: int = 0,
) -> GenerateRequest:
    """plugins: one letter for each; the first brings the sampler, the others processors."""
    calls = [
        PluginCall(plugin=plugin, name="x", core="a:b", options={"option": option})
        for plugin in plugins
    ]
    return GenerateRequest(
        id=row_id,
        prompt_ids=[prompt or row_id],
        sampling=SamplingParams(),
        seed=seed,
        max_tokens=length,
        stop_ids=[STOP] if stop else [],
        sampler=calls[0] if calls else None,
        processors=calls[1:],
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

    def begin(self) -> StepFrame:
        """The frame that tells of rows that begin, before anything is computed."""
        at_work = list(self._rows)[: self._max_rows]
        started = [row_id for row_id in at_work if row_id not in self._started]
        self._started.update(started)
        return StepFrame(started=started)

    def turn(self) -> StepFrame | None:
        """One turn of the scheduler, or None if the core crashed within it."""
        tokens = []
        for row_id in list(self._rows)[: self._max_rows]:
            wanted, text = self._rows[row_id]
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
        return StepFrame(tokens=tokens, running=len(self._rows))


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

    def __init__(
        self,
        fatal: Callable[[GenerateRequest, int], bool] = lambda _r, _n: False,
        max_rows: int = 4,
    ):
        self.fatal = fatal
        self.max_rows = max_rows
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
        self.core = SimulatedCore(self.fatal, self.max_rows)
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
        begun = self.core.begin()
        if begun.started:
            self.from_core.append(begun)
        frame = self.core.turn()
        if frame is None:
            return self.die()
        self.from_core.append(frame)

    def deliver(self, count: int = 1000) -> None:
        for _ in range(min(count, len(self.from_core))):
            frame, messages = self.recovery.frame(self.from_core.popleft(), self.now)
            self.client.see(frame)
            self.to_core += messages

    def die(self, frames_lost: int = 0, plugin: str = "", *, warming: bool = False) -> None:
        """The core goes, perhaps in a plugin; its last frames may be lost with it.

        warming: it has not loaded yet.
        """
        self.deliver(max(0, len(self.from_core) - frames_lost))
        self.from_core.clear()
        self.core = None
        self.deaths.append(self.recovery.died(self.now, "it hung", plugin, warming=warming))
        self.client.fail(self.deaths[-1].failed)

    def die_until_breaker_opens(self) -> None:
        while not self.recovery.breaker_reason(self.now):
            if self.core is None:
                self.restart()
            self.die()

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
