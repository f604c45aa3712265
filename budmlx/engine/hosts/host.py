"""Host interface: somewhere that a core runs, and how the configured kind is opened."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from budmlx.config import ModelConfig
from budmlx.protocol import CoreSettings, GenerateRequest, StepFrame
from budmlx.types import ModelInfo

FrameSink = Callable[[StepFrame], None]
"""Receives every frame, in order, on a thread of the host's; it must not block.

If it raises, the rows that the frame tells of end with `RowFailed`."""


FRESH_SECONDS = 5.0
"""A host whose core sent nothing for this long is not ready; an idle core sends every second."""


@dataclass(frozen=True, slots=True)
class HostStatus:
    """Whether requests make progress now.

    ready: the core is loaded and has stepped or idled within the last seconds.
    reason: one sentence when it is not ready, else empty.
    waiting, running: rows in the core. memory: bytes in use there.
    restarts: how often the core was started again.
    """

    ready: bool
    reason: str = ""
    waiting: int = 0
    running: int = 0
    memory: int = 0
    restarts: int = 0


class Host(Protocol):
    """A core somewhere. Constructing one loads the model and blocks until it is loaded.

    Every submitted row ends in exactly one of: a `Token` with a reason, a `RowFailed`, or a
    `cancel` by the caller. That holds when the core dies, hangs or is closed, too.
    """

    info: ModelInfo

    def submit(self, request: GenerateRequest) -> None:
        """Queue a row. Thread-safe. Raises EngineUnavailableError or EngineClosedError."""

    def cancel(self, row_id: int) -> None:
        """Drop a row; it gets no further message. Thread-safe; unknown ids are ignored."""

    def status(self) -> HostStatus:
        """Look at the host now. Thread-safe, never blocks."""

    def close(self) -> None:
        """End the core; rows that still run get `RowFailed`. Idempotent."""


# Imported on use: the thread host loads MLX, which a server's parent process never does.
HOSTS = {
    "thread": "budmlx.engine.hosts.thread:ThreadHost",
    "process": "budmlx.engine.hosts.process:ProcessHost",
}


def open_host(settings: CoreSettings, sink: FrameSink, config: ModelConfig) -> Host:
    """Start the kind of host that the configuration names, and wait until it has loaded."""
    module, _, name = HOSTS[config.engine_host].partition(":")
    host_class = getattr(importlib.import_module(module), name)
    options: dict[str, float] = {}
    if config.engine_host == "process":
        options["watchdog_seconds"] = config.watchdog_seconds
    host: Host = host_class(settings, sink, **options)
    return host
