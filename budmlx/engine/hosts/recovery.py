"""Recovery of the live rows when the core dies, without processes or clocks.

Rows that were running in a core that died are suspects. The next core gets one half of them and
nothing else; if all of these make a little progress, they are cleared and parked, and the other
half is tried, then everything runs again. A half with which the core dies is halved in turn, so
that one request among n that crashes the core is found with log2(n) further deaths. A row that was
alone in the core at its second death is failed, and the same request is refused for a while.
Deaths without a completed row in between open a breaker, which restarts more and more rarely;
one that only halved a half does not count, as there are few of them. Where a plugin is known to
have done it, only the rows that chose it are suspects, and one that was the only such row is
failed at once.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from dataclasses import dataclass, field

import msgspec

from budmlx.engine.hosts.blocklist import Blocklist
from budmlx.engine.hosts.plugin_faults import PluginPolicy, chosen_plugins, fingerprint
from budmlx.errors import EngineUnavailableError, PluginError
from budmlx.protocol import (
    Cancel,
    CoreRequest,
    EmbedRequest,
    RowErrorCode,
    RowFailed,
    StepFrame,
    Submit,
    ToCore,
    Token,
    Vector,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryPolicy:
    """Seconds and counts of the recovery.

    restart_delay: before the second restart in a row (the first is immediate); doubles.
    probation_tokens: new tokens that clear a suspect.
    breaker_deaths: deaths without a completed row that open the breaker; those with several
        suspects on probation do not count.
    breaker_delay: first pause of an open breaker; doubles. A core that stays idle this long
        counts as healthy, like one that completes a row.
    warmup_delay: before the restart of a core that ended while it warmed up; doubles.
    refusal_seconds: how long a request that crashed the core twice is refused.
    plugins: when requests that choose a plugin are refused.
    """

    restart_delay: float = 0.5
    restart_delay_max: float = 10.0
    probation_tokens: int = 4
    breaker_deaths: int = 5
    breaker_delay: float = 30.0
    breaker_delay_max: float = 300.0
    warmup_delay: float = 5.0
    refusal_seconds: float = 600.0
    plugins: PluginPolicy = field(default_factory=PluginPolicy)


@dataclass(frozen=True, slots=True)
class Death:
    """Consequences of a death: rows to fail now, and seconds to wait before the restart."""

    failed: list[RowFailed]
    delay: float


@dataclass(slots=True, eq=False)
class _LiveRow:
    """A live row. The core knows each of its stays there by a new id, so that frames of an
    earlier stay are never taken for the present one."""

    request: CoreRequest
    emitted: list[int]
    announced: bool = False  # the caller has seen it start
    core_id: int | None = None  # None while it is held back here
    started: bool = False  # in the present core
    progress: int = 0  # tokens from the present core
    deaths: int = 0  # cores that died with it inside since it last made progress


class Recovery:
    """The live rows and their places. Not thread-safe; `now` is any monotonic clock.

    Methods return the messages to send to the core, in order.
    """

    def __init__(self, policy: RecoveryPolicy):
        self._policy = policy
        self._rows: dict[int, _LiveRow] = {}  # by the caller's id, oldest first
        self._in_core: dict[int, _LiveRow] = {}  # by the core's id
        self._suspects: deque[list[_LiveRow]] = deque()  # halves, none empty
        self._on_probation: list[_LiveRow] = []
        self._parked: list[_LiveRow] = []  # just now: the core may not have heard of it yet
        self._core_ids = itertools.count()
        self._blocklist = Blocklist(policy.plugins)
        self._departed: list[CoreRequest] = []  # cancelled since the core's last frame
        self._up = False
        self._deaths = 0  # since the core was last known to be healthy
        self._cold_deaths = 0  # of them, those in a row of cores that warmed up
        self._trips = 0  # times the breaker opened since then; open while the core is down
        self._retry_at = 0.0
        self._idle_since: float | None = None

    @property
    def up(self) -> bool:
        """Whether a core is loaded."""
        return self._up

    @property
    def held(self) -> int:
        """Live rows that the core does not have at the moment."""
        return len(self._rows) - len(self._in_core)

    def breaker_reason(self, now: float) -> str:
        """One sentence while the breaker is open, else empty."""
        if not self._trips or self._up:
            return ""
        wait = math.ceil(max(0.0, self._retry_at - now))
        return f"The engine process ended {self._deaths} times without completing a request; " + (
            f"it is tried again in {wait} s." if wait else "it is being tried again."
        )

    def submit(self, request: CoreRequest, now: float) -> list[ToCore]:
        """Take a row. Raises EngineUnavailableError and the errors of `Blocklist.check`."""
        if reason := self.breaker_reason(now):
            wait = min(60, max(1, math.ceil(self._retry_at - now)))
            raise EngineUnavailableError(reason, retry_after=wait)
        if self._blocklist.used:
            self._blocklist.check(request, now)
        emitted = [] if isinstance(request, EmbedRequest) else list(request.emitted_ids)
        self._rows[request.id] = _LiveRow(request, emitted)
        return self._feed()

    def cancel(self, row_id: int) -> list[ToCore]:
        """Forget a row; unknown ids are ignored."""
        row = self._rows.get(row_id)
        if row is None:
            return []
        cancel: list[ToCore] = [] if row.core_id is None else [Cancel(row.core_id)]
        if cancel and chosen_plugins(row.request):
            self._departed.append(row.request)
        self._end(row)
        return cancel + self._advance()

    def frame(self, frame: StepFrame, now: float) -> tuple[StepFrame, list[ToCore]]:
        """Take a frame of the core; also returns the part of it that is for the caller."""
        self._departed.clear()
        started = []
        for core_id in frame.started:
            if (row := self._in_core.get(core_id)) is not None:
                if not row.announced:
                    started.append(row.request.id)
                row.started = row.announced = True
        prefilling = [
            (row.request.id, left)
            for core_id, left in frame.prefilling
            if (row := self._in_core.get(core_id)) is not None
        ]
        tokens = [token for raw in frame.tokens if (token := self._token(raw)) is not None]
        vectors = [vector for raw in frame.vectors if (vector := self._vector(raw)) is not None]
        failed: list[RowFailed] = []
        for failure in frame.failed:
            if (row := self._in_core.get(failure.id)) is not None:
                self._end(row)
                failed.append(msgspec.structs.replace(failure, id=row.request.id))
        if not self._on_probation or any(row.started for row in self._on_probation):
            self._parked.clear()
        commands = self._advance()
        self._note_idle(now)
        seen = msgspec.structs.replace(
            frame,
            tokens=tokens,
            failed=failed,
            started=started,
            vectors=vectors,
            prefilling=prefilling,
            waiting=frame.waiting + self.held,
        )
        return seen, commands

    def loaded(self, now: float) -> list[ToCore]:
        """Give a new core, which is ready, its rows."""
        self._up = True
        self._parked.clear()
        self._cold_deaths = 0
        self._idle_since = now
        return self._feed()

    def died(self, now: float, how: str = "", plugin: str = "", *, warming: bool = False) -> Death:
        """Record that the core is gone, or could not start; its last frame has been taken.

        how: in words. plugin: the one that caused it, if that is known. warming: it warmed up,
        which the next one will do, too.
        """
        self._up = False
        if plugin and (failed := self._blame_plugin(plugin, how, now)) is not None:
            return Death(failed, 0.0)
        if len(self._on_probation) < 2:
            self._deaths += 1
        failed = self._blame(now)
        self._cold_deaths = self._cold_deaths + 1 if warming else 0
        if not self._trips and self._deaths < self._policy.breaker_deaths:
            return Death(failed, self._restart_delay())
        delay = _doubled(self._policy.breaker_delay, self._trips, self._policy.breaker_delay_max)
        self._trips += 1
        self._retry_at = now + delay
        return Death(failed + self.fail_all(self.breaker_reason(now)), delay)

    def fail_all(self, message: str) -> list[RowFailed]:
        """End every live row."""
        return [self._fail(row, "engine_unavailable", message) for row in list(self._rows.values())]

    def _token(self, raw: Token) -> Token | None:
        """Record a token; None if it belongs to no live row."""
        row = self._in_core.get(raw.id)
        if row is None:
            return None
        row.emitted.append(raw.token)
        self._progressed(row, ended=raw.reason is not None)
        return msgspec.structs.replace(raw, id=row.request.id)

    def _vector(self, raw: Vector) -> Vector | None:
        """Record a vector; None if it belongs to no live request."""
        row = self._in_core.get(raw.id)
        if row is None:
            return None
        self._progressed(row, ended=raw.last)
        return msgspec.structs.replace(raw, id=row.request.id)

    def _progressed(self, row: _LiveRow, *, ended: bool) -> None:
        row.started = True
        row.progress += 1
        if ended:
            self._end(row)
            self._healthy()
        elif row.progress >= self._policy.probation_tokens:
            row.deaths = 0

    def _advance(self) -> list[ToCore]:
        """Go on to the next suspects if those on probation are through."""
        if any(row.progress < self._policy.probation_tokens for row in self._on_probation):
            return []
        parked: list[ToCore] = []
        if self._suspects:
            for row in self._on_probation:
                assert row.core_id is not None
                parked.append(Cancel(row.core_id))
                self._leave_core(row)
                self._parked.append(row)
        self._on_probation = []
        return parked + self._feed()

    def _feed(self) -> list[ToCore]:
        """Submit the rows that may run now: some suspects alone, else all that are held back."""
        if not self._up or self._on_probation:
            return []
        if self._suspects:
            self._on_probation = self._suspects.popleft()
            return [self._enter_core(row) for row in self._on_probation]
        if not self.held:
            return []
        return [self._enter_core(row) for row in self._rows.values() if row.core_id is None]

    def _enter_core(self, row: _LiveRow) -> ToCore:
        row.core_id, row.started, row.progress = next(self._core_ids), False, 0
        self._in_core[row.core_id] = row
        if isinstance(row.request, EmbedRequest):
            return Submit(msgspec.structs.replace(row.request, id=row.core_id))
        changes = {"id": row.core_id, "emitted_ids": list(row.emitted)}
        return Submit(msgspec.structs.replace(row.request, **changes))

    def _leave_core(self, row: _LiveRow) -> None:
        if row.core_id is not None:
            del self._in_core[row.core_id]
            row.core_id = None

    def _end(self, row: _LiveRow) -> None:
        """Forget a row that has its outcome."""
        self._leave_core(row)
        del self._rows[row.request.id]
        for half in (self._on_probation, self._parked, *self._suspects):
            if row in half:
                half.remove(row)
        if [] in self._suspects:
            self._suspects.remove([])

    def _fail(self, row: _LiveRow, code: RowErrorCode, message: str) -> RowFailed:
        self._end(row)
        return RowFailed(row.request.id, code, message)

    def _blame(self, now: float) -> list[RowFailed]:
        """Sort the rows of a dead core into guilty (returned), suspect and innocent ones.

        A row that had not started is innocent the first time only: a crash inside the first
        turn of a prefill leaves no trace but being there. None is guilty while the core may not
        have heard yet that others are parked.
        """
        dead = list(self._in_core.values())
        alone, certain = len(dead) == 1, not self._parked
        self._on_probation, self._parked = [], []
        failed: list[RowFailed] = []
        suspects: list[_LiveRow] = []
        for row in dead:
            self._leave_core(row)
            row.deaths += 1
            if alone and certain and row.deaths >= 2:
                failed += self._refuse(row, now)
            elif alone or row.started or row.deaths >= 2:
                suspects.append(row)
        self._suspects.extendleft(reversed(_halves(suspects)))
        return failed

    def _refuse(self, guilty: _LiveRow, now: float) -> list[RowFailed]:
        """Fail a poison request and its live twins, and keep it out for a while."""
        self._blocklist.add(guilty.request, now + self._policy.refusal_seconds)
        twins = [row for row in self._rows.values() if row.request in self._blocklist]
        message = "The engine crashed twice on this request. Change it, or report the crash."
        return [self._fail(row, "request_failed", message) for row in twins]

    def _blame_plugin(self, plugin: str, how: str, now: float) -> list[RowFailed] | None:
        """Find the request on which a plugin ended the core; rows that did not choose it are
        innocent. Returns the rows that fail, or None if nobody chose it and it is not believed.
        """
        inside = [row for row in self._in_core.values() if plugin in chosen_plugins(row.request)]
        gone = [request for request in self._departed if plugin in chosen_plugins(request)]
        self._departed.clear()
        requests = {fingerprint(each): each for each in (*(row.request for row in inside), *gone)}
        if not requests and not self._blocklist.plugins.believes(plugin):
            return None
        if innocent := [row for row in self._on_probation if row not in inside]:
            self._suspects.appendleft(innocent)
        self._on_probation = []
        for row in list(self._in_core.values()):
            self._leave_core(row)
        if len(requests) > 1 and inside:
            self._suspects.extend([row] for row in inside)
            return []
        for request in requests.values():
            self._blocklist.add_plugin(plugin, how, request, now)
        return self._fail_refused(now)

    def _fail_refused(self, now: float) -> list[RowFailed]:
        """Fail the rows that would be refused for a plugin if they came now."""
        failed: list[RowFailed] = []
        for row in list(self._rows.values()):
            try:
                self._blocklist.plugins.check(row.request, now)
            except PluginError as error:
                failed.append(self._fail(row, "plugin_error", error.message))
        return failed

    def _restart_delay(self) -> float:
        if self._cold_deaths:
            first, most = self._policy.warmup_delay, self._policy.breaker_delay_max
            return _doubled(first, self._cold_deaths - 1, most)
        if self._deaths == 1:
            return 0.0
        first, most = self._policy.restart_delay, self._policy.restart_delay_max
        return _doubled(first, self._deaths - 2, most)

    def _note_idle(self, now: float) -> None:
        if self._in_core:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        elif now - self._idle_since >= self._policy.breaker_delay:
            self._healthy()

    def _healthy(self) -> None:
        self._deaths = self._trips = 0


def _doubled(first: float, times: int, most: float) -> float:
    return float(min(first * 2 ** min(times, 30), most))


def _halves(rows: list[_LiveRow]) -> list[list[_LiveRow]]:
    """The rows in two parts, the first of which may have one more; none is empty."""
    middle = (len(rows) + 1) // 2
    return [half for half in (rows[:middle], rows[middle:]) if half]
