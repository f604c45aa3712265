"""Clock: what is old for sure, although the clock of the machine may be set while we run.

Standard library only; every ring may import it.
"""

from __future__ import annotations

import time

# It goes on while the machine sleeps, which `time.monotonic` does not everywhere.
_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock:
    """Seconds since 1970, by the clock of the machine and by one that nobody sets.

    What begins `now` and is removed when its time has `passed` is not removed too early, however
    the clock is set meanwhile.
    """

    def __init__(self) -> None:
        self._begin = time.time() - time.clock_gettime(_STEADY)

    def now(self) -> float:
        """The later of both."""
        return max(time.time(), self._begin + time.clock_gettime(_STEADY))

    def passed(self) -> float:
        """The earlier of both."""
        return min(time.time(), self._begin + time.clock_gettime(_STEADY))


CLOCK = Clock()
