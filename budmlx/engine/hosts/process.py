"""Process host: the core in a child process that is watched, restarted and loses no rows."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
from collections.abc import Sequence

from budmlx.engine.hosts.child import KILL_SECONDS, Child, End
from budmlx.engine.hosts.host import FRESH_SECONDS, FrameSink, HostStatus, deliver
from budmlx.engine.hosts.recovery import Recovery, RecoveryPolicy
from budmlx.errors import EngineClosedError, ModelLoadError
from budmlx.protocol import (
    CoreSettings,
    GenerateRequest,
    Loaded,
    LoadFailed,
    RowFailed,
    Shutdown,
    StepFrame,
)
from budmlx.protocol.channel import FrameError
from budmlx.types import ModelInfo

log = logging.getLogger(__name__)

# -P: a file of the working directory must not shadow a module of the core's.
CORE_COMMAND = (sys.executable, "-P", "-m", "budmlx.core")

_CLOSE_SECONDS = 2.0


class ProcessHost:
    """Runs the core as `python -m budmlx.core`; see `Host` for what the methods promise.

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
    ):
        """Start the core and wait until it is loaded. Raises ModelLoadError.

        watchdog_seconds: a loaded core that sends nothing for that long is killed.
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
        self._last_frame = 0.0
        self._restarts = 0
        self._last_end = ""
        self._child = self._spawn()
        loaded = self._load(self._child)
        self.info, self._budget = loaded.info, loaded.budget
        self._went_up()
        self._supervisor = threading.Thread(
            target=self._supervise, name="budmlx-core-supervisor", daemon=True
        )
        self._supervisor.start()
        atexit.register(self.close)

    def submit(self, request: GenerateRequest) -> None:
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
                restarts=self._restarts,
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
            return f"The engine is restarting because {self._last_end}."
        silence = now - self._last_frame
        if silence <= FRESH_SECONDS:
            return ""
        return (
            f"The engine has not made a step for {silence:.0f} s; "
            f"it is restarted after {self._watchdog_seconds:.0f} s."
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
                self._child.kill()
                failed = self._recovery.fail_all(
                    "The engine was closed before this request finished."
                )
            self._deliver_failed(failed)

    def _run_core(self) -> End:
        """Start a further core and follow it to its end; returns how it ended."""
        with self._lock:
            self._restarts += 1
        try:
            child = self._spawn()
            with self._lock:
                self._child = child
                if self._closing.is_set():
                    child.kill()
            loaded = self._load(child)
            if loaded.info.fingerprint != self.info.fingerprint:
                child.reap()
                return End("the model directory was changed")
        except ModelLoadError as error:
            log.error("The engine could not be loaded again: %s", error.message)
            return End("the model could not be loaded again")  # no paths: clients get to read this
        self._went_up()
        return self._follow(child)

    def _spawn(self) -> Child:
        try:
            return Child(self._command, self._settings)
        except OSError as error:
            raise ModelLoadError(f"The engine process could not be started: {error}.") from error

    def _load(self, child: Child) -> Loaded:
        """Wait until the core has loaded. Raises ModelLoadError."""
        try:
            message = child.receive(None)
        except (EOFError, FrameError) as error:
            raise ModelLoadError(
                f"The engine process ended while it loaded the model: {child.reap().how}. "
                "Its own words, if any, are on the standard error stream."
            ) from error
        except BaseException:
            child.reap()
            raise
        if isinstance(message, Loaded):
            return message
        child.reap()
        raise ModelLoadError(
            message.message
            if isinstance(message, LoadFailed)
            else "The engine process did not load."
        )

    def _follow(self, child: Child) -> End:
        """Take the core's frames until it ends or hangs; returns how it ended."""
        # Counted in naps, not by the clock: after a pause of this process, such as the sleep
        # of a laptop, the core gets time to send something.
        nap = min(1.0, self._watchdog_seconds / 4)
        silence = 0.0
        while silence < self._watchdog_seconds:
            try:
                frame = child.receive(nap)
            except (EOFError, FrameError):
                return child.reap()
            silence = 0.0 if frame is not None else silence + nap
            if isinstance(frame, StepFrame):
                self._take(child, frame)
        return child.end_hung(silence)

    def _take(self, child: Child, frame: StepFrame) -> None:
        now = time.monotonic()
        with self._lock:
            self._latest, self._last_frame = frame, now
            seen, messages = self._recovery.frame(frame, now)
            child.post(messages)
        deliver(self._sink, seen, self.cancel)

    def _went_up(self) -> None:
        with self._lock:
            self._last_frame = time.monotonic()
            self._child.post(self._recovery.loaded(self._last_frame))

    def _went_down(self, end: End) -> float:
        """Record the end of a core; returns the seconds to wait before the next."""
        with self._lock:
            self._last_end = end.how
            self._latest = StepFrame()
            death = self._recovery.died(time.monotonic(), end.how, end.plugin)
        if end.plugin:
            log.error("The engine failed in plugin %s, which is disabled.", end.plugin)
        log.warning("The engine process is restarted in %.1f s: %s.", death.delay, end.how)
        self._deliver_failed(death.failed)
        return death.delay

    def _deliver_failed(self, failed: list[RowFailed]) -> None:
        if failed:
            deliver(self._sink, StepFrame(failed=failed), self.cancel)
