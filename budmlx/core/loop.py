"""The core's one thread: take messages, run steps, emit frames."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue

import mlx.core as mx

from budmlx.core.activity import HEARTBEAT, Activity, Tally, count
from budmlx.core.adapter_changes import AdapterChanges, FilesRead, load_adapters
from budmlx.core.batch.executor import Executor
from budmlx.core.device import use_device
from budmlx.core.kernel_cache import keep_kernels
from budmlx.core.model.loading import load_model
from budmlx.core.model.memory import memory_use
from budmlx.core.model.model import Model
from budmlx.core.plugin_calls import PACE, check_targets
from budmlx.core.ranks.leader import other_ranks
from budmlx.core.reuse.blocks import open_reuse
from budmlx.core.sample.grammar import Grammars
from budmlx.core.schedule.scheduler import Scheduler
from budmlx.core.warmup import WARMUP_SECONDS, WarmUp
from budmlx.errors import ModelLoadError
from budmlx.plugins import boundary
from budmlx.protocol import (
    AddAdapter,
    AskPrefix,
    Cancel,
    CoreCounts,
    CoreSettings,
    FromCore,
    Loaded,
    LoadFailed,
    MemoryLimitSet,
    PrefixAnswer,
    RemoveAdapter,
    SessionFile,
    SetMemoryLimit,
    Shutdown,
    StepFrame,
    Submit,
    ToCore,
)
from budmlx.protocol.counts import COMPILING

# Seconds at the end for KV that is not on disk yet; a host that waits longer kills the core.
CLOSE_SECONDS = 1.0


class CoreLoop:
    """Loads a model and serves it until a `Shutdown` is posted.

    emit: receives every message of the core, on the core's thread.
    activity: what it does now. warmup_seconds: the model serves after that time of warming up
    even if kernels are missing. replaceable: another process continues if this one ends; see
    `Executor`.
    """

    def __init__(
        self,
        settings: CoreSettings,
        emit: Callable[[FromCore], None],
        activity: Activity | None = None,
        warmup_seconds: float = WARMUP_SECONDS,
        *,
        replaceable: bool = False,
    ):
        self.activity = activity or Activity()
        self._warmup_seconds = warmup_seconds
        self._settings = settings
        self._emit = emit
        self._replaceable = replaceable
        self._inbox: SimpleQueue[ToCore | FilesRead] = SimpleQueue()
        self._limit_set = False  # and not confirmed yet

    def post(self, message: ToCore) -> None:
        """Queue a message for the core. Thread-safe."""
        self._inbox.put(message)

    def run(self) -> None:
        """Block until shutdown. MLX is used on the calling thread only.

        Raises:
            DeviceLostError: the device failed; end the process.
        """
        try:
            self._serve()
        finally:
            # MLX 0.32 aborts the process at exit over the streams of a thread that ended.
            mx.clear_streams()

    def _serve(self) -> None:
        keep_kernels()
        try:
            check_targets(self._settings.plugins)
            use_device()
            self._others = others = other_ranks(self._settings.place)
            model = load_model(self._settings, ranks=others.ranks)
            least = others.loaded(model, self._settings)
            adapters = load_adapters(model, self._settings.adapters)
        except ModelLoadError as error:
            self._emit(LoadFailed.of(error))
            return
        size, kv_store = self._settings.prefix_cache, self._settings.kv_store
        self._reuse = reuse = open_reuse(model, size, kv_store, others.clock)
        loaded = ["", *model.adapters.names]
        for path in self._settings.sessions:
            if problem := reuse.open_session(SessionFile(path=path, save=False), loaded):
                self._emit(LoadFailed(f"The session cannot be used: {problem}"))
                return
        if self._settings.warmup:
            warmup = WarmUp(model, self._settings, self.activity, new_executor=others.executor)
            warmup.run(self._emit, self._warmup_seconds)
        executor = others.executor(model, reuse, self.activity, replaceable=self._replaceable)
        grammars = Grammars(model.info, self._settings.token_decoder)
        scheduler = Scheduler(
            executor,
            max_rows=self._settings.max_rows,
            prefill_chunk=model.numbers.prefill_chunk,
            stream_slowdown=self._settings.stream_slowdown,
            speculation=self._settings.speculation,
            grammars=grammars,
        )
        if least < model.memory.limit:
            scheduler.set_memory_limit(least, size)
        tally = Tally(partial(self._measure, model, grammars))
        changes = AdapterChanges(executor, lambda: scheduler.budget, self._emit, self._inbox.put)
        self._emit(Loaded(model.info, scheduler.budget, adapters))
        while self._receive(scheduler, executor, changes):
            busy = scheduler.busy
            if changes.pending:
                executor.between_steps(partial(changes.work, busy=busy))
            begin = time.perf_counter()
            frame = scheduler.step(self._emit) if busy else StepFrame(memory=memory_use())
            seconds = time.perf_counter() - begin
            if PACE.spent:
                PACE.step(seconds)
            self._emit(tally.counted(frame, seconds, idle=not scheduler.busy))
            self._confirm_limit(scheduler)
        executor.close(CLOSE_SECONDS)

    def _receive(self, scheduler: Scheduler, executor: Executor, changes: AdapterChanges) -> bool:
        """Pass on all messages that are there; wait for one if there is nothing to do."""
        busy = scheduler.busy or changes.pending
        try:
            message = self._inbox.get(block=not busy, timeout=HEARTBEAT)
        except Empty:
            if not busy:
                mx.clear_cache()  # nobody needs it while there is nothing to do
            return True
        try:
            while True:
                if isinstance(message, Shutdown):
                    return False
                if isinstance(message, Submit):
                    scheduler.submit(message.request)
                elif isinstance(message, Cancel):
                    scheduler.cancel(message.id)
                elif isinstance(message, SetMemoryLimit):
                    scheduler.set_memory_limit(message.limit, self._settings.prefix_cache)
                    self._limit_set = True
                elif isinstance(message, AskPrefix):
                    tokens = self._others.stored(self._reuse, message.namespace, message.keys)
                    self._emit(PrefixAnswer(message.id, tokens))
                elif isinstance(message, AddAdapter | RemoveAdapter | FilesRead):
                    changes.take(message)
                message = self._inbox.get_nowait()
        except Empty:
            return True

    def _measure(self, model: Model, grammars: Grammars, counts: CoreCounts) -> int:
        """See `Tally`."""
        while grammars.seconds:
            count(counts.grammars, COMPILING, grammars.seconds.popleft())
        counts.grammars_kept = grammars.kept
        counts.disk = self._reuse.disk
        counts.images = model.vision.encoded if model.vision is not None else 0
        # Those of another model's plugins, where it is not a process of its own.
        counts.faults = boundary.FAULT_COUNTS if self._replaceable else {}
        return self._reuse.nbytes

    def _confirm_limit(self, scheduler: Scheduler) -> None:
        """Report that a limit is kept, once it is: rows that need more may have to end first."""
        # What is in use is this model's alone only in a process of its own.
        alone = self._replaceable
        if self._limit_set and not (alone and memory_use().active > scheduler.budget.limit):
            self._limit_set = False
            self._emit(MemoryLimitSet(scheduler.budget))
