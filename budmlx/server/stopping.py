"""Signals that stop a server: the first one drains it, the next one ends the process."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from types import FrameType

log = logging.getLogger(__name__)


class StopSignals:
    """SIGTERM, SIGINT and SIGHUP, from now on; SIGHUP unless it is ignored, as under nohup.

    first: the name of the signal that came, once `wait` returned.
    """

    def __init__(self) -> None:
        self.first = ""
        self._came = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._numbers = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            self._numbers.append(signal.SIGHUP)
        for number in self._numbers:
            self._loop.add_signal_handler(number, self._take, number.name)

    async def wait(self) -> None:
        """Return when one came."""
        await self._came.wait()

    def end_with_the_next(self, lost: Callable[[], int]) -> None:
        """Let the next one end the process at once. lost: tells how many requests that costs.

        When a terminal closes, both the shell and the system send SIGHUP, so that it no longer
        counts.
        """

        def end(number: int, _: FrameType | None) -> None:
            name = signal.Signals(number).name
            log.warning(
                "%s received again: ended at once; requests that are lost: %d", name, lost()
            )
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

        for number in self._numbers:
            self._loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN if number == signal.SIGHUP else end)

    def _take(self, name: str) -> None:
        self.first = self.first or name
        self._came.set()
