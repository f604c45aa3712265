"""Agent: starts and watches the rank of another machine's model here, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import threading
from collections.abc import Callable

from budmlx.engine.hosts.child import CORE_COMMAND, KILL_SECONDS, Child
from budmlx.errors import BudmlxError, ModelLoadError, RanksError
from budmlx.protocol import PROTOCOL_VERSION, CoreSettings, LoadFailed
from budmlx.protocol.agents import (
    Beat,
    Came,
    Echo,
    Echoed,
    Ended,
    FromAgent,
    Kill,
    Probe,
    Probed,
    Problem,
    Pulse,
    Refused,
    Start,
    ToAgent,
)
from budmlx.protocol.channel import Channel, FrameError
from budmlx.protocol.links import connect
from budmlx.protocol.proofs import prove

log = logging.getLogger(__name__)

SPEED_COMMAND = (sys.executable, "-P", "-m", "budmlx.core.speed_test")
_LOOK_SECONDS = 1.0
# Seconds without a word of a host that has not said how many it may be silent.
_PATIENCE = 30.0

Find = Callable[[CoreSettings], CoreSettings]


class Agent:
    """Serves one host: starts a core when it says so, until the host is gone.

    find: settings with the model's directory on this machine; it may raise ModelLoadError.
    """

    def __init__(self, channel: Channel[ToAgent], find: Find):
        self._channel = channel
        self._find = find
        self._sending = threading.Lock()
        self._core: _Core | None = None

    @classmethod
    def join(
        cls, where: str, secret: str, rank: int, find: Find, *, digest: str = "", seconds: float
    ) -> Agent:
        """Connect to a host, and wait up to `seconds` for it. rank: -1 if the address says it.

        Raises:
            RanksError: nobody answers, or who does knows another secret.
        """
        try:
            connection = connect(where, seconds, digest)
        except OSError as error:
            raise RanksError(f"Rank 0 at {where} cannot be reached: {error}.") from error
        channel: Channel[ToAgent] = Channel(connection, ToAgent)
        with contextlib.suppress(EOFError, FrameError, OSError):
            if prove(channel, secret, rank):
                channel.send(Came(PROTOCOL_VERSION))
                return cls(channel, find)
        channel.close()
        raise RanksError(
            f"What answers at {where} does not know the secret, or expects TLS (--tls-digest)."
        )

    def serve(self) -> None:
        """Do what the host says until it is gone; then no core is left.

        Raises:
            RanksError: the host refuses this machine.
        """
        silence, patience = 0.0, _PATIENCE
        try:
            while silence < patience:
                message = self._channel.receive(_LOOK_SECONDS)
                # Looks are counted, not seconds, so that a machine that slept gets some.
                silence = silence + _LOOK_SECONDS if message is None else 0.0
                if isinstance(message, Start):
                    patience = message.patience
                    self._start(message)
                elif isinstance(message, Kill):
                    if self._core is not None and self._core.number == message.number:
                        self._end()
                elif isinstance(message, Refused):
                    raise RanksError(message.reason)
                elif isinstance(message, Echo):
                    self.say(Echoed(message.data))
                elif isinstance(message, Probe):
                    threading.Thread(target=self._probe, daemon=True).start()
                elif isinstance(message, Beat):
                    self.say(Pulse())
            log.warning("Rank 0 has said nothing for %.0f s.", silence)
        except (EOFError, FrameError) as error:
            log.warning("Rank 0 is gone: %s", error)
        finally:
            self._end()
            self._channel.close()

    def say(self, message: FromAgent) -> None:
        """Tell the host something; whoever receives notices where it is gone."""
        with self._sending, contextlib.suppress(OSError):
            self._channel.send(message)

    def _probe(self) -> None:
        """Thread body: a GPU's first kernels may take most of a minute."""
        done = subprocess.run(SPEED_COMMAND, stdout=subprocess.PIPE, check=False)
        self.say(Probed(done.stdout.decode() if done.returncode == 0 else ""))

    def _start(self, order: Start) -> None:
        self._end()
        try:
            self._core = _Core(self, order.number, self._find(order.settings))
        except (BudmlxError, OSError) as error:
            problem = error if isinstance(error, ModelLoadError) else ModelLoadError(str(error))
            self.say(Problem(order.number, LoadFailed.of(problem)))
            self.say(Ended(order.number, "it was not started"))

    def _end(self) -> None:
        core, self._core = self._core, None
        if core is not None:
            core.end()


class _Core:
    """A core of this machine, and the thread that tells the host of it."""

    def __init__(self, agent: Agent, number: int, settings: CoreSettings):
        self._agent, self.number = agent, number
        self._child = Child(CORE_COMMAND, settings)
        self._thread = threading.Thread(target=self._watch, name="budmlx-rank", daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._child.kill()
        self._thread.join(2 * KILL_SECONDS)

    def _watch(self) -> None:
        """Thread body: tell the host what the core says, that it lives, and its end."""
        with contextlib.suppress(EOFError, FrameError):
            while True:
                message = self._child.receive(_LOOK_SECONDS)
                if isinstance(message, LoadFailed):
                    self._agent.say(Problem(self.number, message))
                self._agent.say(Pulse(self.number, self._child.note().pulses))
        self._agent.say(Ended(self.number, self._child.reap().how))
