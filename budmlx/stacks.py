"""Stacks of all threads, for those who look why a process stands still.

Standard library only.
"""

from __future__ import annotations

import faulthandler
import signal
import sys


def dump_on_signal() -> None:
    """Write the stacks of all threads to the standard error stream whenever SIGUSR1 comes.

    Where there is no such stream the signal does nothing; without this it ends a process.
    """
    try:
        if sys.stderr is None:
            raise OSError
        faulthandler.register(signal.SIGUSR1, file=sys.stderr.fileno(), all_threads=True)
    except (OSError, ValueError):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
