"""Child: a core process, the socket to it, the thread that writes to it, and its watchdog."""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from io import FileIO
from typing import Literal

from budmlx.engine.hosts.core_output import CoreOutput
from budmlx.protocol import PROTOCOL_VERSION, CoreSettings, FromCore, Hello, ToCore
from budmlx.protocol.channel import Channel, connected_sockets
from budmlx.protocol.note import NOTE_BYTES, Note

# -P: a file of the working directory must not shadow a module of the core's.
CORE_COMMAND = (sys.executable, "-P", "-m", "budmlx.core")
KILL_SECONDS = 5.0

_EXIT_SECONDS = 0.2  # for a process that closed its socket to end by itself
# Seconds without a pulse after which a process counts as stopped.
_STOPPED_SECONDS = 5.0

# An abort is no plugin's fault, wherever the core's thread was: MLX ends a process in this way,
# from another thread, for what the device does.
_CRASHES = (-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGILL, -signal.SIGFPE)


@dataclass(frozen=True, slots=True)
class End:
    """The end of a core, in words. plugin: the one that caused it; empty if none is known to."""

    how: str
    plugin: str = ""
    kind: Literal["crash", "hang", "load"] = "crash"


class Child:
    """A core process from its start to its end.

    stopped: which rank gives no sign of life, in words; a process that is alone shows that itself.
    """

    stopped = ""

    def __init__(self, command: Sequence[str], settings: CoreSettings):
        self._note = _open_note()
        self._output = CoreOutput()
        ours, theirs = connected_sockets()
        passed: list[int] = []
        try:
            passed += (_above_streams(theirs.fileno()), _above_streams(self._note.fileno()))
            passed += _log_stream(settings)
            self._process = subprocess.Popen(
                [*command, *map(str, passed)],
                stdin=subprocess.DEVNULL,
                stdout=self._output.writer,
                stderr=self._output.writer,
                pass_fds=passed,
                env=child_environment(),
                start_new_session=True,  # Ctrl-C is for the parent to judge
            )
        except BaseException:
            ours.close()
            self._note.close()
            raise
        finally:
            self._output.handed_over()
            theirs.close()
            for each in passed:
                os.close(each)
        self._channel: Channel[FromCore] = Channel(ours, FromCore)
        self._outbox: queue.SimpleQueue[ToCore | None] = queue.SimpleQueue()
        self.post([Hello(PROTOCOL_VERSION, settings)])
        threading.Thread(target=self._write, name="budmlx-core-writer", daemon=True).start()

    def post(self, messages: Sequence[ToCore]) -> None:
        """Send messages in order. Never blocks, also when the core does not read."""
        for message in messages:
            self._outbox.put(message)

    def receive(self, timeout: float | None) -> FromCore | None:
        """See `Channel.receive`."""
        return self._channel.receive(timeout)

    def note(self) -> Note:
        """What the process does now; it must not be reaped yet."""
        return Note.read(self._note.fileno())

    def kill(self) -> None:
        """End the process, also a stopped one."""
        self._process.kill()

    def wait_gone(self, seconds: float, stop: threading.Event) -> bool:
        """Wait until the process is gone; returns whether it is, before `seconds` or `stop`.

        To free dozens of gigabytes, or a device that hangs, a system may need longer than `reap`
        waits.
        """
        end = time.monotonic() + seconds
        while self._process.poll() is None:
            if time.monotonic() >= end or stop.wait(_EXIT_SECONDS):
                return False
        return True

    def end_hung(self, silence: float) -> End:
        """End a process that sent nothing for that many seconds, and `reap` it."""
        self._process.kill()
        plugin = self._reaped()
        return End(f"it made no step for {silence:.0f} s", plugin, "hang")

    def reap(self) -> End:
        """Make sure that the process is gone and free its resources; returns how it ended."""
        plugin, status = self._reaped(), self._process.returncode
        # The core itself exits only where it calls no plugin, or is ours no longer.
        exited = status is not None and status >= 0
        return End(_describe(status), plugin if exited or status in _CRASHES else "")

    def _reaped(self) -> str:
        """The plugin that the process was calling when it ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_EXIT_SECONDS)
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(KILL_SECONDS)
        self._outbox.put(None)
        self._output.finish()
        self._channel.close()
        with self._note:
            return self.note().plugin

    def _write(self) -> None:
        """Thread body: keeps callers from waiting for a core that does not read."""
        try:
            with contextlib.suppress(OSError):
                while (message := self._outbox.get()) is not None:
                    self._channel.send(message)
        finally:  # a core that misses a message must not live on
            self._process.kill()


class Watchdog:
    """Tells a core that works from one that hangs, by its frames and its note.

    Time is counted in naps, not by the clock: after a pause of this process, such as the sleep of
    a laptop, the core gets time to give a sign of life.
    A core may be silent for as long as its note allows, but not while it is stopped, and not in
    the code of a plugin: only the core itself knows what takes long.

    seconds: of silence that mean a hang where the note does not allow more.
    silence: seconds without a frame and without a beat.
    """

    def __init__(self, seconds: float):
        self.nap = min(1.0, seconds / 4)
        self.silence = 0.0
        self._seconds = seconds
        self._stopped = 0.0
        self._in_plugin = 0.0
        self._seen = Note()

    def heard(self) -> None:
        """Record a frame."""
        self.silence = self._stopped = self._in_plugin = 0.0

    def napped(self, note: Note) -> bool:
        """Record a nap without a frame, with the note after it; returns whether the core hangs."""
        seen, self._seen = self._seen, note
        moved = note.beats != seen.beats
        inside = note.plugin and note.plugin == seen.plugin and not (moved or note.computes)
        self.silence = 0.0 if moved else self.silence + self.nap
        self._in_plugin = self._in_plugin + self.nap if inside else 0.0
        self._stopped = self._stopped + self.nap if note.pulses == seen.pulses else 0.0
        limit = max(self._seconds, note.allowed)
        if self._in_plugin >= self._seconds or self._stopped >= _STOPPED_SECONDS:
            limit = self._seconds
        return self.silence >= limit


def _above_streams(descriptor: int) -> int:
    """A copy that is none of the standard streams, which may be closed here."""
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)


def _log_stream(settings: CoreSettings) -> list[int]:
    """A copy of the standard error stream for the log of the core; none without either."""
    if settings.log_level is None:
        return []
    try:
        return [_above_streams(2)]
    except OSError:
        return []


def _open_note() -> FileIO:
    """A file for the note, in memory where the system has such files."""
    if sys.platform == "linux":
        descriptor = os.memfd_create("budmlx-note")
    else:
        descriptor, name = tempfile.mkstemp()
        os.unlink(name)
    try:
        note = FileIO(fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3), "r+")
    finally:
        os.close(descriptor)
    note.write(bytes(NOTE_BYTES))  # takes the room that the disk may not have later
    return note


def _describe(status: int | None) -> str:
    """An exit status in words."""
    if status is None:
        return "its process cannot be killed"
    if status >= 0:
        return f"its process exited with status {status}"
    hint = ", perhaps because memory ran out" if status == -signal.SIGKILL else ""
    return f"its process was killed by signal {-status} ({signal.strsignal(-status)}){hint}"


def child_environment() -> dict[str, str]:
    """The environment, made to import the same modules from the same places as here."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
