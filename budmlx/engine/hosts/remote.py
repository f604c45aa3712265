"""Remote: a core on another machine, and the link to the agent that runs it there."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections.abc import Callable, Sequence

from budmlx.engine.hosts.child import KILL_SECONDS, End
from budmlx.protocol import CoreSettings, FromCore, LoadFailed, ToCore
from budmlx.protocol.agents import (
    Beat,
    Echo,
    Echoed,
    Ended,
    FromAgent,
    Kill,
    Probe,
    Probed,
    Problem,
    Pulse,
    Start,
    ToAgent,
)
from budmlx.protocol.channel import Channel, FrameError
from budmlx.protocol.note import Note

_LOOK_SECONDS = 1.0
# Seconds without a word of an agent, whatever its core does, after which the link counts as cut.
_SILENCE_SECONDS = 15.0
_numbers = itertools.count(1)


class RemoteChild:
    """A core on another machine, used like a `Child`: only what it ends with is known of it."""

    stopped = ""

    def __init__(self, settings: CoreSettings, patience: float):
        self.order = Start(next(_numbers), settings, patience)
        self._link: Link | None = None
        self._events: queue.SimpleQueue[LoadFailed | None] = queue.SimpleQueue()
        self._note = Note()
        self._end = End("")
        self._gone = threading.Event()
        self._lock = threading.Lock()
        self._killed = False

    def post(self, messages: Sequence[ToCore]) -> None:
        """See `Child`: it hears what rank 0 says, and nothing else."""

    def receive(self, timeout: float | None) -> FromCore | None:
        """See `Child`: why it cannot load."""
        try:
            event = self._events.get(timeout=timeout)
        except queue.Empty:
            return None
        if event is None:
            self._events.put(None)
            raise EOFError("The core is gone.")
        return event

    def note(self) -> Note:
        """See `Child`: its pulses alone."""
        return self._note

    def kill(self) -> None:
        """Tell its agent to end it; without one it has not been started."""
        with self._lock:
            self._killed = True
            link = self._link
        if link is None:
            self.ended("it was not started")
        else:
            link.send(Kill(self.order.number))

    def wait_gone(self, seconds: float, stop: threading.Event) -> bool:
        """See `Child`."""
        return self._gone.wait(seconds)

    def end_hung(self, silence: float) -> End:
        """See `Child`."""
        self.reap()
        return End(f"it made no step for {silence:.0f} s", kind="hang")

    def reap(self) -> End:
        """See `Child`. An agent that does not answer is hung up on, and ends its core by itself."""
        self.kill()
        if not self._gone.wait(KILL_SECONDS) and self._link is not None:
            self._link.close()
            self._gone.wait(KILL_SECONDS)
        return self._end

    # What others do with it

    def begin(self, link: Link) -> None:
        """Start it, now that its agent is there."""
        with self._lock:
            if self._killed or self._link is not None:
                return
            self._link = link
        link.run(self)

    def failed(self, failed: LoadFailed) -> None:
        """Record why it cannot load."""
        self._events.put(failed)

    def pulsed(self, pulses: int) -> None:
        """Record a sign of life."""
        self._note = Note(pulses=pulses)

    def ended(self, how: str) -> None:
        """Record its end."""
        if not self._gone.is_set():
            self._end = End(how)
            self._gone.set()
            self._events.put(None)


class Link:
    """The connection to an agent. gone: called, on a thread, when the agent is."""

    def __init__(self, channel: Channel[FromAgent], rank: int, gone: Callable[[Link], None]):
        self.rank = rank
        self._channel = channel
        self._left = gone
        self._sending = threading.Lock()
        self._child: RemoteChild | None = None
        self._answers: queue.SimpleQueue[Echoed | Probed | None] = queue.SimpleQueue()
        self._closed = threading.Event()
        threading.Thread(target=self._read, name=f"budmlx-agent-{rank}", daemon=True).start()
        threading.Thread(target=self._beat, name=f"budmlx-beat-{rank}", daemon=True).start()

    def run(self, child: RemoteChild) -> None:
        """Start a core in place of the one before it."""
        self._child = child
        self.send(child.order)

    def send(self, message: ToAgent) -> None:
        """Tell the agent something; whoever receives notices where it is gone."""
        with self._sending, contextlib.suppress(OSError):
            self._channel.send(message)

    def ask(self, question: Echo | Probe, seconds: float) -> Echoed | Probed | None:
        """The answer to a question; None if none came in time. One thread asks, no core runs."""
        self.send(question)
        with contextlib.suppress(queue.Empty):
            return self._answers.get(timeout=seconds)
        return None

    def close(self) -> None:
        """Hang up."""
        self._closed.set()
        self._channel.close()

    def _beat(self) -> None:
        while not self._closed.wait(_LOOK_SECONDS):
            self.send(Beat())

    def _read(self) -> None:
        silence = 0.0
        how = "the connection to its machine was lost"
        try:
            while silence < _SILENCE_SECONDS:
                message = self._channel.receive(_LOOK_SECONDS)
                silence = silence + _LOOK_SECONDS if message is None else 0.0
                if message is not None:
                    self._take(message)
            how = f"its machine said nothing for {silence:.0f} s"
        except (EOFError, FrameError, OSError, ValueError):  # closed by this side, too
            pass
        self.close()
        if self._child is not None:
            self._child.ended(how)
        self._answers.put(None)
        self._left(self)

    def _take(self, message: FromAgent) -> None:
        if isinstance(message, Echoed | Probed):
            self._answers.put(message)
            return
        child = self._child
        if child is None or not isinstance(message, Pulse | Problem | Ended):
            return
        if message.number != child.order.number:
            return
        if isinstance(message, Pulse):
            child.pulsed(message.pulses)
        elif isinstance(message, Problem):
            child.failed(message.failed)
        else:
            child.ended(message.how)
