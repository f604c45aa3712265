"""Process host: the core in a child process that is watched, restarted and loses no rows."""

from __future__ import annotations

import atexit
import logging
import math
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future

import msgspec

from budmlx.engine.hosts.adapters import Change, HostAdapters
from budmlx.engine.hosts.child import CORE_COMMAND, KILL_SECONDS, Child, End, Watchdog
from budmlx.engine.hosts.host import FRESH_SECONDS, FrameSink, HostStatus, deliver
from budmlx.engine.hosts.limit_change import LimitChange
from budmlx.engine.hosts.machines import MachinePool
from budmlx.engine.hosts.prefix_questions import PrefixQuestions
from budmlx.engine.hosts.ranks import RankGroup
from budmlx.engine.hosts.recovery import Recovery, RecoveryPolicy
from budmlx.engine.hosts.starting import await_loaded, spawn
from budmlx.engine.hosts.warm_up_news import WarmUpNews
from budmlx.errors import EngineClosedError, EngineUnavailableError, ModelLoadError, RanksError
from budmlx.logs import Level
from budmlx.plugins.boundary import count_fault
from budmlx.progress import Notice
from budmlx.protocol import (
    AdapterAnswer,
    AskPrefix,
    CoreCounts,
    CoreReport,
    CoreRequest,
    CoreSettings,
    Loaded,
    MemoryBudget,
    MemoryLimitSet,
    PrefixAnswer,
    RowFailed,
    SetLogLevel,
    SetMemoryLimit,
    Shutdown,
    StepFrame,
)
from budmlx.protocol.channel import FrameError
from budmlx.protocol.counts import plus
from budmlx.protocol.note import Note
from budmlx.types import ModelInfo

log = logging.getLogger(__name__)

_CLOSE_SECONDS = 2.0
# A core that is restarted may give no sign of life for this long while it loads, and for this many
# times as long as the first one took to load: a disk may have become slower.
_LOAD_SECONDS = 600.0
_LOAD_SLACK = 10.0
# How long the memory of a core that ended may take to be free again before the next one loads.
_GONE_SECONDS = 60.0
_ADDRESS_TRIES = 3


class ProcessHost:
    """Runs the core as `python -m budmlx.core`; see `Host` for what the methods promise.

    Where the model is split, several of them are one core, see `RankGroup`.

    The sink is called on the host's own thread only. A frame that was on its way to the sink
    when `cancel` was called may still hold a token of that row.
    """

    info: ModelInfo

    def __init__(
        self,
        settings: CoreSettings,
        sink: FrameSink,
        *,
        watchdog_seconds: float = 30.0,
        policy: RecoveryPolicy | None = None,
        command: Sequence[str] = CORE_COMMAND,
        notice: Notice | None = None,
    ):
        """Start the core and wait until it is loaded. Raises ModelLoadError.

        watchdog_seconds: a loaded core that gives no sign of life for that long is killed, unless
        it said that it does something that may take longer.
        notice: called with words while a core loads.
        command: program to run; the descriptors of socket and note are appended.
        """
        self._settings = settings
        self._sink = sink
        self._watchdog_seconds = watchdog_seconds
        self._command = tuple(command)
        self._owner = os.getpid()
        self._lock = threading.Lock()  # of all that follows
        self._closing = threading.Event()
        self._recovery = Recovery(policy or RecoveryPolicy())
        self._latest = StepFrame()
        self._report = CoreReport()
        self._past = CoreCounts()  # of former cores
        self._last_sign = 0.0  # of life: a frame or a beat
        self._news = WarmUpNews(notice)
        self._limit_change = LimitChange()
        self.prefixes = PrefixQuestions(self._post)
        self._note = Note()  # of the last nap
        self._last_end = End("")
        self.adapters = HostAdapters(self._change)
        begin = time.monotonic()
        self._pool = MachinePool(settings.machines) if settings.machines is not None else None
        try:
            loaded = self._start(settings, math.inf)
        except BaseException:
            self._close_pool()
            raise
        self.adapters.came(loaded.adapters)
        self.info, self._budget = loaded.info, loaded.budget
        self._load_patience = max(_LOAD_SECONDS, _LOAD_SLACK * (time.monotonic() - begin))
        self._went_up()
        self._supervisor = threading.Thread(
            target=self._supervise, name="budmlx-core-supervisor", daemon=True
        )
        self._supervisor.start()
        atexit.register(self.close)

    def submit(self, request: CoreRequest) -> None:
        """Queue a row; while the core restarts it waits here.

        Raises EngineUnavailableError, EngineClosedError, RequestFailedError for a request
        that crashed the core twice, or PluginError for a plugin that ended the core.
        """
        with self._lock:
            if self._closing.is_set():
                raise EngineClosedError("The engine is closed. Load a new one.")
            self._child.post(self._recovery.submit(request, time.monotonic()))

    def cancel(self, row_id: int) -> None:
        """Drop a row; unknown ids are ignored."""
        with self._lock:
            self._child.post(self._recovery.cancel(row_id))

    def set_memory_limit(self, limit: int) -> Future[MemoryBudget]:
        """Bound the core's memory; see `Host.set_memory_limit`."""
        with self._lock:
            kept = self._limit_change.begin(limit)
            self._settings = msgspec.structs.replace(self._settings, memory_limit=limit)
            self._child.post([SetMemoryLimit(limit)])
        return kept

    def _post(self, message: AskPrefix) -> None:
        with self._lock:
            self._child.post([message])

    def _change(self, change: Change) -> None:
        with self._lock:
            if self._closing.is_set():
                raise EngineClosedError("The engine is closed. Load a new one.")
            if self._settings.ranks > 1:
                raise ModelLoadError("A model that is split over ranks cannot have adapters yet.")
            if not self._recovery.up:
                raise EngineUnavailableError("The engine is restarting; try again.")
            self._child.post([change])

    def set_log_level(self, level: Level) -> None:
        """See `Host.set_log_level`."""
        with self._lock:
            self._settings = msgspec.structs.replace(self._settings, log_level=level)
            self._child.post([SetLogLevel(level)])

    def status(self) -> HostStatus:
        """Look at the host now."""
        with self._lock:
            reason = self._reason(time.monotonic())
            return HostStatus(
                ready=not reason,
                reason=reason,
                waiting=self._latest.waiting + self._recovery.held,
                running=self._latest.running,
                memory=self._latest.memory,
                budget=self._budget,
                counts=plus(self._past, self._report.counts),
                stored=self._report.stored,
            )

    def close(self) -> None:
        """End the core; rows that still run get `RowFailed`. Idempotent."""
        if os.getpid() != self._owner:  # a fork of ours that ends must not end our core
            return
        atexit.unregister(self.close)
        with self._lock:
            self._closing.set()
            self._child.post([Shutdown()])
        if threading.current_thread() is self._supervisor:
            return
        self._supervisor.join(_CLOSE_SECONDS)
        if self._supervisor.is_alive():
            with self._lock:
                self._child.kill()
            self._supervisor.join(KILL_SECONDS)

    def _reason(self, now: float) -> str:
        """Why no request makes progress, or an empty string."""
        if self._closing.is_set():
            return "The engine is closed."
        if reason := self._recovery.breaker_reason(now):
            return reason
        if not self._recovery.up:
            words = f": {self._news.words}" if self._news.words else ""
            return f"The engine is restarting because {self._last_end.how}{words}."
        if stopped := self._child.stopped:
            limit = self._watchdog_seconds
            return f"The engine waits: {stopped}; it is restarted after {limit:.0f} s."
        silence = now - self._last_sign
        if silence <= max(FRESH_SECONDS, 2 * self._note.longest):
            return ""
        limit = max(self._watchdog_seconds, self._note.allowed)
        builds = "it may be building kernels, so " if limit > self._watchdog_seconds else ""
        return (
            f"The engine has not made a step for {silence:.0f} s; "
            f"{builds}it is restarted after {limit:.0f} s."
        )

    def _supervise(self) -> None:
        """Thread body: follow one core after the other, and fail what is left at the end."""
        try:
            ended = self._follow(self._child)
            while not self._closing.is_set() and not self._closing.wait(self._went_down(ended)):
                ended = self._run_core()
        finally:  # after a fault of ours, too: no caller may wait for ever
            with self._lock:
                self._closing.set()
                self._limit_change.close()
                self._child.kill()
                failed = self._recovery.fail_all(
                    "The engine was closed before this request finished."
                )
            self._close_pool()
            self._deliver_failed(failed)
            self.adapters.gone()
            self.prefixes.gone()

    def _close_pool(self) -> None:
        if self._pool is not None:
            self._pool.close()

    def _run_core(self) -> End:
        """Start a further core and follow it to its end; returns how it ended."""
        if not self._child.wait_gone(_GONE_SECONDS, self._closing):
            log.warning("The engine is started again although its old process has not ended.")
        with self._lock:
            restart = CoreCounts(restarts={self._last_end.kind: 1})
            self._past = plus(self._past, restart)
        try:
            settings = self.adapters.settings(self._settings)
            loaded = self._start(settings, self._load_patience)
            if loaded.info.fingerprint != self.info.fingerprint:
                self._child.reap()
                return End("the model directory was changed", kind="load")
        except ModelLoadError as error:
            log.error("The engine could not be loaded again: %s", error.message)
            # No paths: clients get to read this.
            why = f": {error.message.rstrip('.')}" if isinstance(error, RanksError) else ""
            return End(f"the model could not be loaded again{why}", kind="load")
        self._take_budget(loaded.budget)
        self._went_up(loaded.adapters)
        return self._follow(self._child)

    def _start(self, settings: CoreSettings, patience: float) -> Loaded:
        """Start a core, and wait until it has loaded. Raises ModelLoadError. patience: see there.

        Addresses of ranks that another program takes in the meantime are replaced.
        """
        for tries in reversed(range(_ADDRESS_TRIES)):
            child = spawn(self._command, settings, self._watchdog_seconds, self._pool)
            with self._lock:
                self._child = child
                if self._closing.is_set():
                    child.kill()
            try:
                return await_loaded(child, patience, self._news)
            except RanksError as error:
                if error.code != "address_taken" or not tries:
                    raise
        raise AssertionError("unreachable")

    def _follow(self, child: Child | RankGroup) -> End:
        """Take the core's frames until it ends or hangs; returns how it ended."""
        watchdog = Watchdog(self._watchdog_seconds)
        while True:
            try:
                frame = child.receive(watchdog.nap)
            except (EOFError, FrameError):
                return child.reap()
            if frame is not None:
                watchdog.heard()
                if isinstance(frame, StepFrame):
                    self._take(child, frame)
                elif isinstance(frame, MemoryLimitSet):
                    self._take_budget(frame.budget)
                elif isinstance(frame, PrefixAnswer):
                    self.prefixes.answered(frame)
                elif isinstance(frame, AdapterAnswer):
                    if not frame.problem:
                        self._budget = frame.budget
                    self.adapters.answered(frame)
                continue
            self._note = child.note()
            if watchdog.napped(self._note):
                return child.end_hung(watchdog.silence)
            if not watchdog.silence:
                self._last_sign = time.monotonic()

    def _take(self, child: Child | RankGroup, frame: StepFrame) -> None:
        now = time.monotonic()
        with self._lock:
            self._latest, self._last_sign = frame, now
            self._report = frame.report or self._report
            seen, messages = self._recovery.frame(frame, now)
            child.post(messages)
        deliver(self._sink, seen, self.cancel)

    def _take_budget(self, budget: MemoryBudget) -> None:
        with self._lock:
            self._budget = budget
            self._limit_change.take(budget)

    def _went_up(self, adapters: Sequence[AdapterAnswer] = ()) -> None:
        """Give a core that is loaded its rows. adapters: what a further core has loaded."""
        with self._lock:
            self._last_sign = time.monotonic()
            self._child.post(self.adapters.restarted(adapters))
            self._child.post(self._recovery.loaded(self._last_sign))

    def _went_down(self, end: End) -> float:
        """Record the end of a core; returns the seconds to wait before the next."""
        with self._lock:
            self._last_end = end
            self._latest = StepFrame()
            self._past = plus(self._past, self._report.counts)
            self._report = CoreReport()
            warming = bool(self._news.words)
            death = self._recovery.died(time.monotonic(), end.how, end.plugin, warming=warming)
        if end.plugin:
            count_fault(end.plugin, "crashed")
            log.error("The engine failed in plugin %s.", end.plugin)
        log.warning("The engine process is restarted in %.1f s: %s.", death.delay, end.how)
        self._deliver_failed(death.failed)
        self.adapters.gone()
        self.prefixes.gone()
        return death.delay

    def _deliver_failed(self, failed: list[RowFailed]) -> None:
        if failed:
            deliver(self._sink, StepFrame(failed=failed), self.cancel)
