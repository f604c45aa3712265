"""Thread host: a core in a thread of this process, the default of the embedded engine."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from concurrent.futures import Future
from queue import SimpleQueue

from budmlx.core.loop import CoreLoop
from budmlx.engine.hosts.adapters import Change, HostAdapters
from budmlx.engine.hosts.host import FRESH_SECONDS, FrameSink, HostStatus, deliver
from budmlx.engine.hosts.limit_change import LimitChange
from budmlx.engine.hosts.prefix_questions import PrefixQuestions
from budmlx.engine.hosts.warm_up_news import WarmUpNews
from budmlx.errors import EngineClosedError, EngineUnavailableError, ModelLoadError
from budmlx.logs import Level
from budmlx.progress import Notice
from budmlx.protocol import (
    AdapterAnswer,
    Cancel,
    CoreReport,
    CoreRequest,
    CoreSettings,
    FromCore,
    Loaded,
    LoadFailed,
    MemoryBudget,
    MemoryLimitSet,
    PrefixAnswer,
    RowFailed,
    SetMemoryLimit,
    Shutdown,
    StepFrame,
    Submit,
    WarmingUp,
)

log = logging.getLogger(__name__)

# How long `close` waits for the step in flight.
CLOSE_SECONDS = 10.0


class ThreadHost:
    """Runs a `CoreLoop` on a daemon thread. A dead core cannot be restarted here.

    notice: called while the model loads, on the core's thread.

    Raises:
        ModelLoadError: the model cannot be used.
    """

    def __init__(self, settings: CoreSettings, sink: FrameSink, *, notice: Notice | None = None):
        self._sink = sink
        self._lock = threading.Lock()
        self._live: set[int] = set()
        self._closed = False
        self._dead = ""
        self._last_frame = StepFrame()
        self._report = CoreReport()
        self._last_frame_at = time.monotonic()
        self._news = WarmUpNews(notice)
        self._limit_change = LimitChange()
        self._loading: SimpleQueue[Loaded | LoadFailed] = SimpleQueue()
        self.adapters = HostAdapters(self._change)
        self._loop = CoreLoop(settings, self._receive)
        self.prefixes = PrefixQuestions(self._loop.post)
        self._thread = threading.Thread(target=self._run, name="budmlx-core", daemon=True)
        self._thread.start()
        outcome = self._loading.get()
        if isinstance(outcome, LoadFailed):
            raise ModelLoadError(outcome.message)
        self.info = outcome.info
        self._budget = outcome.budget
        self.adapters.came(outcome.adapters)
        # A thread that the end of the program stops within MLX would abort the process.
        atexit.register(self.close)

    def submit(self, request: CoreRequest) -> None:
        """Queue a row; see `Host.submit`."""
        with self._lock:
            self._check()
            self._live.add(request.id)
            self._loop.post(Submit(request))

    def _change(self, change: Change) -> None:
        with self._lock:
            self._check()
            self._loop.post(change)

    def _check(self) -> None:
        if self._closed:
            raise EngineClosedError("The engine is closed.")
        if self._dead:
            raise EngineUnavailableError(self._dead)

    def cancel(self, row_id: int) -> None:
        """Drop a row; see `Host.cancel`."""
        with self._lock:
            self._live.discard(row_id)
        self._loop.post(Cancel(row_id))

    def set_memory_limit(self, limit: int) -> Future[MemoryBudget]:
        """Bound the core's memory; see `Host.set_memory_limit`."""
        with self._lock:
            kept = self._limit_change.begin(limit)
        self._loop.post(SetMemoryLimit(limit))
        return kept

    def set_log_level(self, level: Level) -> None:
        """Nothing to do: the core logs where this process does."""

    def status(self) -> HostStatus:
        """Look at the host now; see `Host.status`."""
        reason = self._dead
        activity = self._loop.activity
        silence = time.monotonic() - max(self._last_frame_at, activity.begun_at)
        if self._closed:
            reason = "The engine is closed."
        elif not reason and silence > max(FRESH_SECONDS, 2 * activity.longest):
            reason = "The core has made no progress for several seconds."
            if activity.new:
                reason = "The core runs something for the first time, and may be building kernels."
        frame = self._last_frame
        return HostStatus(
            ready=not reason,
            reason=reason,
            waiting=frame.waiting,
            running=frame.running,
            memory=frame.memory,
            budget=self._budget,
            counts=self._report.counts,
            stored=self._report.stored,
        )

    def close(self) -> None:
        """End the core; see `Host.close`."""
        atexit.unregister(self.close)
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._loop.post(Shutdown())
        if self._thread is not threading.current_thread():
            self._thread.join(CLOSE_SECONDS)
        self._fail_live("The engine was closed before this request finished.")
        self.adapters.gone()

    def _run(self) -> None:
        try:
            self._loop.run()
        except Exception:
            # Whatever ends the core must reach the requests, or they would wait for ever.
            log.exception("the core ended")
            with self._lock:
                self._dead = "The core ended after an internal error; restart the program."
            self._loading.put(LoadFailed(self._dead))
            self._fail_live(self._dead)
            self.adapters.gone()

    def _receive(self, message: FromCore) -> None:
        if isinstance(message, WarmingUp):
            self._news.tell(message)
            return
        if isinstance(message, MemoryLimitSet):
            with self._lock:
                self._budget = message.budget
                self._limit_change.take(message.budget)
            return
        if isinstance(message, PrefixAnswer):
            self.prefixes.answered(message)
            return
        if isinstance(message, AdapterAnswer):
            if not message.problem:
                self._budget = message.budget
            self.adapters.answered(message)
            return
        if not isinstance(message, StepFrame):
            self._loading.put(message)
            return
        self._last_frame, self._last_frame_at = message, time.monotonic()
        self._report = message.report or self._report
        ended = {token.id for token in message.tokens if token.reason is not None}
        ended.update(failed.id for failed in message.failed)
        ended.update(vector.id for vector in message.vectors if vector.last)
        if ended:
            with self._lock:
                self._live -= ended
        deliver(self._sink, message, self.cancel)

    def _fail_live(self, reason: str) -> None:
        with self._lock:
            live, self._live = sorted(self._live), set()
            self._limit_change.close()
        self.prefixes.gone()
        if live:
            failed = [RowFailed(row_id, "engine_unavailable", reason) for row_id in live]
            deliver(self._sink, StepFrame(failed=failed), self.cancel)
