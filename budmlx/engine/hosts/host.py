"""Host interface: a place for a core to run, its opening, the delivery of its frames."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from budmlx.backend import importing_mlx
from budmlx.config import ModelConfig
from budmlx.engine.hosts.adapters import HostAdapters
from budmlx.engine.hosts.prefix_questions import PrefixQuestions
from budmlx.logs import Level
from budmlx.progress import Notice
from budmlx.protocol import (
    CoreCounts,
    CoreRequest,
    CoreSettings,
    MemoryBudget,
    MemoryUse,
    RowFailed,
    StepFrame,
    Token,
    Vector,
)
from budmlx.types import ModelInfo

log = logging.getLogger(__name__)

FrameSink = Callable[[StepFrame], None]
"""Receives every frame, in order, on a thread of the host's; it must not block.

If it raises, the rows that the frame tells of end with `RowFailed`."""

UNDELIVERED = "The engine failed to deliver this reply; the server's log says more."
FRESH_SECONDS = 5.0
"""A host whose core gave no sign of life for this long, and for twice as long as the longest pause
between two of late, is not ready; an idle core sends something every second."""


@dataclass(frozen=True, slots=True)
class HostStatus:
    """The state of a host: whether requests make progress now.

    ready: the core is loaded and has stepped or idled within the last seconds.
    reason: one sentence when it is not ready, else empty.
    waiting, running: rows in the core. memory: what the core has, budget: what it may have.
    counts: what it did, and cores before it, as of its last report. stored: bytes of KV of former
    prompts and replies, as of then.
    """

    ready: bool
    reason: str = ""
    waiting: int = 0
    running: int = 0
    memory: MemoryUse = field(default_factory=MemoryUse)
    budget: MemoryBudget = field(default_factory=MemoryBudget)
    counts: CoreCounts = field(default_factory=CoreCounts)
    stored: int = 0

    @property
    def restarts(self) -> int:
        """The number of times that the core was restarted."""
        return sum(self.counts.restarts.values())


class Host(Protocol):
    """A core and the place where it runs. The constructor blocks until the model is loaded.

    Every submitted row, or request for vectors, ends in exactly one of: a `Token` with a reason,
    the last `Vector`, a `RowFailed`, or a `cancel` by the caller. That holds when the core dies,
    hangs or is closed, too.
    """

    info: ModelInfo
    adapters: HostAdapters

    def submit(self, request: CoreRequest) -> None:
        """Queue a row, or texts. Thread-safe.

        Raises EngineUnavailableError or EngineClosedError.
        """

    def cancel(self, row_id: int) -> None:
        """Drop a row; it gets no further message. Thread-safe; unknown ids are ignored."""

    prefixes: PrefixQuestions
    """What is stored of prompts."""

    def set_memory_limit(self, limit: int) -> Future[MemoryBudget]:
        """Bound the core's memory by `limit` bytes from now on, in restarted cores, too.

        The future is done when what the core has in use is within it, which may take until a
        long reply ends; it is cancelled by the next change. Thread-safe, never blocks.
        """

    def set_log_level(self, level: Level) -> None:
        """Change what a process of the core's own logs, and those that come after it."""

    def status(self) -> HostStatus:
        """Look at the host now. Thread-safe, never blocks."""

    def close(self) -> None:
        """End the core; rows that still run get `RowFailed`. Idempotent."""


# Imported on use: the thread host loads MLX, which a server's parent process never does.
HOSTS = {
    "thread": "budmlx.engine.hosts.thread:ThreadHost",
    "process": "budmlx.engine.hosts.process:ProcessHost",
}


def open_host(
    settings: CoreSettings, sink: FrameSink, config: ModelConfig, notice: Notice | None = None
) -> Host:
    """Start the kind of host that the configuration names, and wait until it has loaded.

    notice: called meanwhile, on any thread.

    Raises:
        ModelLoadError: the model cannot be used, or MLX cannot be loaded.
    """
    module, _, name = HOSTS[config.engine_host].partition(":")
    with importing_mlx():
        host_class = getattr(importlib.import_module(module), name)
    options: dict[str, float] = {}
    if config.engine_host == "process":
        options["watchdog_seconds"] = config.watchdog_seconds
    host: Host = host_class(settings, sink, notice=notice, **options)
    return host


def deliver(sink: FrameSink, frame: StepFrame, cancel: Callable[[int], object]) -> None:
    """Hand a frame to the sink. If that fails, end each row in the frame.

    cancel: drops a row, so that it gets no further message of the core's. The fault is ours; it
    must neither end the host's thread nor leave a hole in a reply.
    """
    try:
        sink(frame)
    except Exception:  # the boundary of the host's thread
        log.exception("A frame of the engine could not be delivered")
        updates: list[Token | RowFailed | Vector] = [*frame.tokens, *frame.failed, *frame.vectors]
        for row_id in dict.fromkeys(each.id for each in updates):
            cancel(row_id)
            _fail(sink, row_id)


def _fail(sink: FrameSink, row_id: int) -> None:
    # One frame for each row: what fails for one must not keep the others waiting for ever.
    try:
        sink(StepFrame(failed=[RowFailed(row_id, "request_failed", UNDELIVERED)]))
    except Exception:  # see above; no receiver is left to report it to
        log.exception("A row of the engine could not be ended")
