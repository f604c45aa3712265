"""Adapters that come and go while rows run: files are read on a thread of their own, layers are
changed between steps, a few at a time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from budmlx.core.adapters.files import AdapterFiles
from budmlx.core.adapters.loaded import Adapters
from budmlx.core.batch.executor import Executor
from budmlx.core.model.device_faults import is_device_fault
from budmlx.core.model.device_numbers import DeviceNumbers
from budmlx.core.model.memory import CACHE_STEP, MemoryModel
from budmlx.core.model.model import Model
from budmlx.errors import ModelLoadError
from budmlx.protocol import AdapterAnswer, AdapterSource, AddAdapter, MemoryBudget, RemoveAdapter

log = logging.getLogger(__name__)

# Seconds between two steps of rows that run; a layer that has begun is finished.
PAUSE = 0.01


@dataclass(frozen=True, slots=True)
class FilesRead:
    """The files of an adapter, or the problem, for the core's own thread."""

    source: AdapterSource
    files: AdapterFiles | None
    problem: str = ""


def load_adapters(model: Model, sources: list[AdapterSource]) -> list[AdapterAnswer]:
    """Add adapters to a model that serves nobody yet.

    Raises:
        ModelLoadError: one that was never loaded before cannot be used.
    """
    answers = []
    for source in sources:
        try:
            files = AdapterFiles.read(_path(source), source.digest)
            room = adapter_room(model.memory_now, model.numbers)
            for _ in model.adapters.add(files, room):
                pass
            answers.append(_loaded(model.adapters, source, files.digest))
        except ModelLoadError as error:
            if not source.digest:
                raise
            log.error("%s", error.message)
            answers.append(AdapterAnswer(source, source.digest, problem=error.message))
    if model.adapters.names:
        model.policy.wire()
    return answers


def adapter_room(memory: MemoryModel, numbers: DeviceNumbers) -> int:
    """Bytes that further adapters may take: a short row must fit beside them."""
    return memory.limit - memory.total([[CACHE_STEP]], numbers.least_chunk)


class AdapterChanges:
    """Carries out changes of a model's adapters, in their order. On the core's thread only.

    budget: that of the core as it is. emit: receives the answers. post: hands what a thread has
    read to the core's own. pending: whether `work` has something to do.
    """

    def __init__(
        self,
        executor: Executor,
        budget: Callable[[], MemoryBudget],
        emit: Callable[[AdapterAnswer], None],
        post: Callable[[FilesRead], None],
    ):
        self._executor = executor
        self._budget = budget
        self._emit = emit
        self._post = post
        self.pending = False
        self._waiting: deque[FilesRead | RemoveAdapter] = deque()
        self._running: tuple[Iterator[None], AdapterAnswer] | None = None

    def take(self, message: AddAdapter | RemoveAdapter | FilesRead) -> None:
        """Begin a change, or go on with one whose files have been read."""
        if isinstance(message, AddAdapter):
            threading.Thread(
                target=self._read, args=(message.source,), name="budmlx-adapter", daemon=True
            ).start()
        else:
            self._waiting.append(message)
            self.pending = True

    def work(self, *, busy: bool) -> None:
        """Change layers: all that there are, or, if rows run, for a short time.

        Raises:
            RuntimeError: the device failed.
        """
        end = time.perf_counter() + PAUSE
        while self._running is not None or self._waiting:
            if self._running is None:
                self._running = self._begun(self._waiting.popleft())
            if self._running is not None:
                self._go_on(*self._running)
            if busy and time.perf_counter() >= end:
                return
        self.pending = False

    def _read(self, source: AdapterSource) -> None:
        try:
            read = FilesRead(source, AdapterFiles.read(_path(source), source.digest))
        except ModelLoadError as error:
            read = FilesRead(source, None, error.message)
        except (MemoryError, ValueError) as error:
            read = FilesRead(source, None, f"The adapter in {source.path} cannot be read: {error}")
        self._post(read)

    def _begun(
        self, change: FilesRead | RemoveAdapter
    ) -> tuple[Iterator[None], AdapterAnswer] | None:
        adapters, source = self._executor.adapters, change.source
        if isinstance(change, RemoveAdapter):
            return adapters.remove(source.digest), AdapterAnswer(
                source, source.digest, removed=True
            )
        if change.files is None:
            self._emit(AdapterAnswer(source, problem=change.problem))
            return None
        room = adapter_room(self._executor.memory, self._executor.numbers)
        return adapters.add(change.files, room), AdapterAnswer(source, change.files.digest)

    def _go_on(self, steps: Iterator[None], answer: AdapterAnswer) -> None:
        source, digest = answer.source, answer.digest
        try:
            next(steps)
            return
        except StopIteration:
            self._running = None
        except (ModelLoadError, RuntimeError, ValueError) as error:
            self._running = None
            log.warning("an adapter was refused: %s", error)
            self._emit(AdapterAnswer(source, problem=str(error)))
            if is_device_fault(error):
                raise
            return
        if not answer.removed:
            answer = _loaded(self._executor.adapters, source, digest)
        self._emit(msgspec.structs.replace(answer, budget=self._budget()))


def _path(source: AdapterSource) -> Path:
    return Path(source.path)


def _loaded(adapters: Adapters, source: AdapterSource, digest: str) -> AdapterAnswer:
    return AdapterAnswer(source, digest, adapters.names[digest])
