"""Adapters of a host's core: those that each further core loads, and changes that are awaited."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress

import msgspec

from budmlx.errors import EngineUnavailableError, ModelLoadError
from budmlx.protocol import (
    AdapterAnswer,
    AdapterSource,
    AddAdapter,
    CoreSettings,
    RemoveAdapter,
)

Change = AddAdapter | RemoveAdapter


class HostAdapters:
    """The adapters of one host. Thread-safe.

    post: sends a message to the core; raises if there is none to take it.
    loaded: by the digests of their files. paths: the last answer for each directory.
    """

    def __init__(self, post: Callable[[Change], None]):
        self.loaded: dict[str, AdapterAnswer] = {}
        self.paths: dict[str, AdapterAnswer] = {}
        self._post = post
        self._lock = threading.Lock()
        self._awaited: list[tuple[Change, Future[AdapterAnswer]]] = []

    def settings(self, settings: CoreSettings) -> CoreSettings:
        """The settings of a further core, which loads the same adapters."""
        sources = [
            msgspec.structs.replace(each.source, digest=digest)
            for digest, each in list(self.loaded.items())
        ]
        return msgspec.structs.replace(settings, adapters=sources)

    def came(self, answers: Sequence[AdapterAnswer]) -> None:
        """Record what a core has loaded. One that it lost is loaded again by the next."""
        self.loaded.update({answer.digest: answer for answer in answers})
        self.paths.update({answer.source.path: answer for answer in answers})

    def restarted(self, answers: Sequence[AdapterAnswer]) -> list[RemoveAdapter]:
        """Record what a further core has loaded; returns the removals of those that were removed
        meanwhile. Nothing may be posted to that core before.
        """
        wanted = [answer for answer in answers if answer.digest in self.loaded]
        self.came(wanted)
        return [
            RemoveAdapter(AdapterSource(answer.source.path, answer.digest))
            for answer in answers
            if answer.digest not in self.loaded
        ]

    def add(self, path: str) -> AdapterAnswer:
        """Load the adapter in a directory, and wait for it.

        Raises:
            ModelLoadError: it cannot be used; says why.
            EngineUnavailableError: the core ended meanwhile, or is not there.
        """
        return self._changed(AddAdapter(AdapterSource(path)))

    def remove(self, digest: str) -> None:
        """Forget an adapter that no row has, and wait for it. A core that is not there, or ends
        meanwhile, has nothing to forget; the next one does not load it.

        Raises:
            ModelLoadError: the device failed.
            EngineClosedError: the host was closed.
        """
        source = self.loaded.pop(digest).source
        with suppress(EngineUnavailableError):
            self._changed(RemoveAdapter(AdapterSource(source.path, digest)))

    def answered(self, answer: AdapterAnswer) -> None:
        """Take an answer of the core. Called on the host's thread."""
        if not answer.removed and not answer.problem:
            self.came([answer])
        with self._lock:
            for each in self._awaited:
                if each[0].source == answer.source:
                    self._awaited.remove(each)
                    each[1].set_result(answer)
                    return

    def gone(self) -> None:
        """End all that is awaited of a core that ended."""
        with self._lock:
            awaited, self._awaited = self._awaited, []
        for _, future in awaited:
            future.set_exception(EngineUnavailableError("The engine ended meanwhile; try again."))

    def _changed(self, change: Change) -> AdapterAnswer:
        future: Future[AdapterAnswer] = Future()
        with self._lock:
            self._awaited.append((change, future))
        try:
            self._post(change)
        except BaseException:
            with self._lock:
                self._awaited = [each for each in self._awaited if each[1] is not future]
            raise
        answer = future.result()
        if answer.problem:
            raise ModelLoadError(answer.problem)
        return answer
