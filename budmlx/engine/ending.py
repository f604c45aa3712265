"""Ending: how an engine ends, also one that nobody closes."""

from __future__ import annotations

import os
import threading
import warnings
import weakref
from collections.abc import Callable, Sequence


class Ending:
    """The end of `engine`, at the latest when it is collected.

    ends: called then, in order; none of them may know the engine.
    """

    def __init__(self, engine: object, name: str, ends: Sequence[Callable[[], object]]):
        self._ends = ends
        self._finalizer = weakref.finalize(engine, _dropped, os.getpid(), name, ends)
        self._finalizer.atexit = False  # hosts end with the process

    def now(self) -> None:
        """End it."""
        self._finalizer.detach()
        _end(self._ends)


def _end(ends: Sequence[Callable[[], object]]) -> None:
    for end in ends:
        end()


def _dropped(owner: int, name: str, ends: Sequence[Callable[[], object]]) -> None:
    if os.getpid() != owner:  # of a fork, which has none of it
        return
    # Collection may happen anywhere, also where the host holds its lock.
    threading.Thread(target=_end, args=(ends,), name="budmlx-dropped", daemon=True).start()
    warnings.warn(
        f"The engine of {name} was dropped without close()", ResourceWarning, stacklevel=2
    )
