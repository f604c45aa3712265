"""The adapters of an engine: their names, and the requests that use them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from budmlx.config import adapter_path, is_adapter_name
from budmlx.engine.hosts.host import Host
from budmlx.errors import InvalidRequestError, ModelNotFoundError
from budmlx.protocol import AdapterAnswer
from budmlx.types import Adapter, Request

GONE = "The adapter of this request was removed."


class AdapterSet:
    """The adapters that requests may name. Thread-safe.

    Requests name an adapter, everything behind that goes by the digest of its files: what was
    stored for a name whose files were changed is never used again.

    paths: of those that the host has loaded already, by their names.
    """

    def __init__(self, host: Host, paths: Mapping[str, str]):
        self._host = host
        loaded = host.adapters.paths
        self._named = {name: _adapter(name, loaded[path]) for name, path in paths.items()}
        self._users = Counter[str]()
        self._state = threading.Condition()  # of the two above
        self._changes = threading.Lock()  # one change at a time; it waits for the core

    @property
    def named(self) -> Mapping[str, Adapter]:
        """All of them by their names."""
        with self._state:
            return dict(self._named)

    def resolved(self, request: Request) -> Request:
        """The request with the digest of its adapter in place of the name.

        Raises:
            ModelNotFoundError: there is no such adapter; names those that there are.
        """
        adapter = self._named.get(request.adapter)
        if adapter is None:
            raise self._unknown(request.adapter)
        return replace(request, adapter=adapter.digest)

    def take(self, digest: str) -> None:
        """Count a request that uses an adapter. Raises ModelNotFoundError if it was removed."""
        with self._state:
            if not self._is_named(digest):
                raise ModelNotFoundError(GONE, param="adapter")
            self._users[digest] += 1

    def give_back(self, digest: str) -> None:
        """Undo one `take`."""
        with self._state:
            self._users[digest] -= 1
            self._state.notify_all()

    def add(self, name: str, path: str | Path) -> Adapter:
        """See `AdapterMethods.add_adapter`."""
        if not is_adapter_name(name):
            message = "The name of an adapter has letters, digits, dots, dashes and underscores."
            raise InvalidRequestError(message, param="name")
        with self._changes:
            if name in self._named:
                message = f"There is an adapter {name!r} already; remove it first."
                raise InvalidRequestError(message, param="name")
            adapter = _adapter(name, self._host.adapters.add(adapter_path(path)))
            with self._state:
                self._named[name] = adapter
                self._state.notify_all()
        return adapter

    def remove(self, name: str) -> None:
        """See `AdapterMethods.remove_adapter`."""
        with self._state:
            adapter = self._named.pop(name, None)
            if adapter is None:
                raise self._unknown(name)
            digest = adapter.digest
            # The same files may have another name, or get one meanwhile.
            self._state.wait_for(lambda: not self._users[digest] or self._is_named(digest))
        with self._changes:
            if not self._is_named(digest) and digest in self._host.adapters.loaded:
                self._host.adapters.remove(digest)

    def _is_named(self, digest: str) -> bool:
        return any(adapter.digest == digest for adapter in self._named.values())

    def _unknown(self, name: str) -> ModelNotFoundError:
        return unknown_adapter(name, self._named)


def unknown_adapter(name: str, known: Iterable[str]) -> ModelNotFoundError:
    """The error about the name of an adapter. known: those that there are."""
    there = ", ".join(sorted(known)) or "none"
    return ModelNotFoundError(
        f"There is no adapter {name[:100]!r}. Loaded: {there}.", param="adapter"
    )


def _adapter(name: str, answer: AdapterAnswer) -> Adapter:
    return Adapter(name, answer.source.path, answer.digest, answer.nbytes)


class AdapterMethods:
    """The methods of an engine for its adapters."""

    _adapters: AdapterSet

    @property
    def adapters(self) -> Mapping[str, Adapter]:
        """The adapters that requests may name, by their names."""
        return self._adapters.named

    def add_adapter(self, name: str, path: str | Path) -> Adapter:
        """Load a LoRA adapter, for requests that say `adapter=name`. Blocks until it is there.

        path: the directory that mlx-lm or PEFT wrote. Rows that run go on meanwhile.

        Raises:
            InvalidRequestError: the name cannot be used, or is taken.
            ModelLoadError: the adapter cannot be used; names the file and the tensor.
            EngineUnavailableError: the core is not there now.
        """
        return self._adapters.add(name, path)

    def remove_adapter(self, name: str) -> None:
        """Forget an adapter. Requests cannot name it from now on; blocks until those that did end.
        A core that is being restarted does not bring it back.

        Raises:
            ModelNotFoundError: there is no such adapter.
        """
        self._adapters.remove(name)
