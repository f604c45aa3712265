"""Warm-up news: the progress of a core that warms up, in words."""

from __future__ import annotations

import logging
import math
import time

from budmlx.progress import Notice
from budmlx.protocol import WarmingUp

log = logging.getLogger(__name__)

# Seconds between two lines about a warm-up in the log.
_LOG_SECONDS = 5.0


class WarmUpNews:
    """Passes on how far a warm-up is, to `notice` and to the log.

    words: the last of it; empty if no warm-up is going on.
    """

    def __init__(self, notice: Notice | None):
        self.words = ""
        self._notice = notice
        self._logged = 0.0

    def end(self) -> None:
        """Record that it is over, or that another core begins to load."""
        self.words = ""

    def tell(self, frame: WarmingUp) -> None:
        """Put a frame into words."""
        left = "" if frame.seconds is None else f", about {math.ceil(frame.seconds)} s more"
        self.words = f"building kernels {frame.done + 1}/{frame.total}{left}"
        if self._notice is not None:
            self._notice(self.words)
        now = time.monotonic()
        if frame.done == 0 or now - self._logged >= _LOG_SECONDS:
            self._logged = now
            log.info("Before the model serves: %s.", self.words)
