"""Resident: one model that may be loaded, who uses it, and who waits for it."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal, Self

from budmlx.config import Config, adapter_paths
from budmlx.engine.engine import Engine
from budmlx.engine.load.library.kv_size import KVLayout
from budmlx.engine.load.library.pass_size import LEAST_CHUNK
from budmlx.engine.models.shares import LEAST_WORK, Claim
from budmlx.errors import BudmlxError
from budmlx.model_context import UNBOUNDED_CONTEXT
from budmlx.progress import Notice
from budmlx.protocol import CoreCounts
from budmlx.protocol.counts import plus

State = Literal["unloaded", "loading", "loaded", "unloading", "failed"]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model that can be loaded.

    name: what it is called. config: its settings, with `model` saying where it is.
    weights: their bytes, 0 if unknown. context: tokens that it was made for, if known. kv: what it
    keeps of them, if known. embeds: it makes vectors for others, and does not chat.
    created: when, in seconds of the Unix clock.
    fetch: it may be fetched from the hub before it is loaded.
    """

    name: str
    config: Config
    weights: int = 0
    context: int | None = None
    kv: KVLayout | None = None
    embeds: bool = False
    created: int = 0
    fetch: bool = False

    @property
    def aliases(self) -> tuple[str, ...]:
        """Further names."""
        return self.config.alias

    @property
    def found(self) -> bool:
        """Whether its files are known to be here, and their size with them."""
        return self.weights > 0 and not self.fetch

    def longest(self, room: int | None = None) -> int | None:
        """Most tokens of a prompt and its reply together, as far as its files tell.

        room: bytes that it would have, if that is known.
        """
        limits = filter(None, (self.context, self.config.context_limit))
        context = min(limits, default=None)
        if room is None or not self.weights:
            return context
        free, chunk = room - self.weights, self.config.prefill_chunk
        if self.kv is None or self.kv.computed is None:
            free -= LEAST_WORK
        if free < 0:
            return 0
        if self.kv is None:
            return context
        chunk = LEAST_CHUNK if chunk == "auto" else chunk
        most = context or UNBOUNDED_CONTEXT
        return self.kv.longest_row(free, most, self.config.kv_bits, chunk)


@dataclass(slots=True, eq=False)
class Resident:
    """A model and its present state; `Residency` alone changes it, under its lock.

    users: those who hold the engine. waiting: those who want it. leaving: those who wait for its
    end. pinned: it makes way for none. idle_seconds: it is unloaded when unused for so long;
    infinite to stay. loads: how often it was loaded. past: what its core did in former loads.
    weights: in bytes, once they are known. limit: bytes that the loaded model was told to keep
    within. loaded_at, used_at, failed_at: seconds of the monotonic clock. load_seconds: how long
    the last load took. error: why it failed. progress: words about a load, which `notice` gets,
    too.
    """

    spec: ModelSpec
    state: State = "unloaded"
    engine: Engine | None = None
    users: int = 0
    waiting: deque[Future[Engine]] = field(default_factory=deque)
    leaving: list[Future[None]] = field(default_factory=list)
    pinned: bool = False
    idle_seconds: float = math.inf
    loads: int = 0
    past: CoreCounts = field(default_factory=CoreCounts)
    weights: int = 0
    limit: int = 0
    loaded_at: float = 0.0
    used_at: float = 0.0
    failed_at: float = 0.0
    load_seconds: float | None = None
    error: BudmlxError | None = None
    progress: str = ""
    notice: Notice | None = None
    _counting: threading.RLock = field(default_factory=threading.RLock)  # past and engine

    @classmethod
    def of(cls, spec: ModelSpec) -> Self:
        """A model that is not loaded, with its settings."""
        self = cls(spec, pinned=spec.config.pin)
        self.idle_seconds = self.usual_idle_seconds
        return self

    @property
    def usual_idle_seconds(self) -> float:
        """Its `idle_seconds` by its settings."""
        return self.spec.config.idle_unload or math.inf

    @property
    def idle(self) -> bool:
        """Whether it is neither loaded nor wanted."""
        return self.engine is None and self.state != "loading" and not self.wanted

    @property
    def name(self) -> str:
        """What the model is called."""
        return self.spec.name

    @property
    def adapters(self) -> Sequence[str]:
        """Names of its LoRA adapters, which requests may choose as `MODEL:ADAPTER`."""
        if self.engine is not None:
            return sorted(self.engine.adapters)
        return sorted(adapter_paths(self.spec.config.adapter))

    @property
    def created(self) -> int:
        """When it was made, in seconds of the Unix clock."""
        engine = self.engine
        return self.spec.created if engine is None else engine.info.created

    @property
    def longest(self) -> int | None:
        """Most tokens of a prompt and its reply together, as far as is known."""
        engine = self.engine
        if engine is None:
            return self.spec.longest()
        longest = engine.status().budget.longest_row or engine.info.context_length
        return min(longest, engine.info.context_length)

    @property
    def counts(self) -> CoreCounts:
        """What its core did, in former loads, too."""
        with self._counting:
            engine = self.engine
            return self.past if engine is None else plus(self.past, engine.status().counts)

    @property
    def wanted(self) -> bool:
        """Whether anybody still waits for it."""
        while self.waiting and self.waiting[0].cancelled():
            self.waiting.popleft()
        return bool(self.waiting)

    @property
    def claim(self) -> Claim:
        """Its part of the memory."""
        limit = self.spec.config.memory_limit
        return Claim(self.weights or self.spec.weights, limit and int(limit))

    def moved(self, spec: ModelSpec) -> None:
        """Its files are elsewhere now, or others; of a model that is loaded they stay."""
        if self.spec != spec and self.idle:
            self.spec, self.weights = spec, 0

    def idle_until(self) -> float | None:
        """When it is to be unloaded if nobody uses it; None if it stays."""
        stays = self.pinned or self.idle_seconds == math.inf
        if stays or self.users or self.state != "loaded":
            return None
        return self.used_at + self.idle_seconds

    def fail_waiting(self, error: BudmlxError) -> None:
        """Tell all who wait that the model does not come."""
        while self.waiting:
            future = self.waiting.popleft()
            if future.set_running_or_notify_cancel():
                future.set_exception(error)

    def failed(self, error: BudmlxError) -> None:
        """The load ended with an error."""
        self.state, self.error, self.failed_at = "failed", error, time.monotonic()
        self.fail_waiting(error)
        self.left()

    def loaded(self, engine: Engine) -> None:
        """The load ended well; all who wait hold the engine now."""
        self.state, self.engine, self.error = "loaded", engine, None
        self.loads += 1
        self.loaded_at = self.used_at = time.monotonic()
        budget = engine.status().budget
        self.weights, self.limit = budget.weights, budget.limit
        while self.waiting:
            future = self.waiting.popleft()
            if future.set_running_or_notify_cancel():
                self.users += 1
                future.set_result(engine)

    def gone(self) -> None:
        """The model is no longer loaded."""
        with self._counting:
            self.past, self.engine = self.counts, None
        self.state, self.limit = "unloaded", 0
        self.idle_seconds = self.usual_idle_seconds
        self.left()

    def left(self) -> None:
        """Tell all who wait for its end that it has come."""
        leaving, self.leaving = self.leaving, []
        for future in leaving:
            future.set_result(None)
