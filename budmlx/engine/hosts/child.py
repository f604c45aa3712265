"""Child: a core process, the socket to it and the thread that writes to it."""

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
from collections.abc import Sequence
from dataclasses import dataclass
from io import FileIO

from budmlx.protocol import PROTOCOL_VERSION, CoreSettings, FromCore, Hello, ToCore
from budmlx.protocol.channel import Channel, connected_sockets

KILL_SECONDS = 5.0

_EXIT_SECONDS = 0.2  # for a process that closed its socket to end by itself
_NOTE_BYTES = 4096

# An abort is no plugin's fault, wherever the core's thread was: MLX ends a process in this way,
# from another thread, for what the device does.
_CRASHES = (-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGILL, -signal.SIGFPE)


@dataclass(frozen=True, slots=True)
class End:
    """The end of a core, in words. plugin: the one that caused it; empty if none is known to."""

    how: str
    plugin: str = ""


class Child:
    """A core process from its start to its end."""

    def __init__(self, command: Sequence[str], settings: CoreSettings):
        self._note = _open_note()
        ours, theirs = connected_sockets()
        # Where standard streams are closed, the socket must not become one of them.
        descriptor = fcntl.fcntl(theirs, fcntl.F_DUPFD_CLOEXEC, 3)
        try:
            self._process = subprocess.Popen(
                [*command, str(descriptor), str(self._note.fileno())],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL if sys.stderr is None else None,
                pass_fds=(descriptor, self._note.fileno()),
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for the parent to judge
            )
        except BaseException:
            ours.close()
            self._note.close()
            raise
        finally:
            theirs.close()
            os.close(descriptor)
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

    def kill(self) -> None:
        """End the process, also a stopped one."""
        self._process.kill()

    def end_hung(self, silence: float) -> End:
        """End a process that sent nothing for that many seconds, and `reap` it."""
        self._process.kill()
        plugin = self._reaped()
        return End(f"it made no step for {silence:.0f} s", plugin)

    def reap(self) -> End:
        """Make sure that the process is gone and free its resources; returns how it ended."""
        plugin, status = self._reaped(), self._process.returncode
        return End(_describe(status), plugin if status in _CRASHES else "")

    def _reaped(self) -> str:
        """The plugin that the process was calling when it ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_EXIT_SECONDS)
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(KILL_SECONDS)
        self._outbox.put(None)
        self._channel.close()
        with self._note:
            note = os.pread(self._note.fileno(), _NOTE_BYTES, 0)
        return note.partition(b"\0")[0].decode(errors="replace")

    def _write(self) -> None:
        """Thread body: keeps callers from waiting for a core that does not read."""
        try:
            with contextlib.suppress(OSError):
                while (message := self._outbox.get()) is not None:
                    self._channel.send(message)
        finally:  # a core that misses a message must not live on
            self._process.kill()


def _open_note() -> FileIO:
    """A file for `budmlx.core.plugin_calls`, in memory where the system has such files."""
    if sys.platform == "linux":
        descriptor = os.memfd_create("budmlx-note")
    else:
        descriptor, name = tempfile.mkstemp()
        os.unlink(name)
    try:
        note = FileIO(fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3), "r+")
    finally:
        os.close(descriptor)
    note.write(bytes(_NOTE_BYTES))  # takes the room that the disk may not have later
    return note


def _describe(status: int | None) -> str:
    """An exit status in words."""
    if status is None:
        return "its process cannot be killed"
    if status >= 0:
        return f"its process exited with status {status}"
    hint = ", perhaps because memory ran out" if status == -signal.SIGKILL else ""
    return f"its process was killed by signal {-status} ({signal.strsignal(-status)}){hint}"


def _environment() -> dict[str, str]:
    """The environment, made to import the same modules from the same places as here."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
