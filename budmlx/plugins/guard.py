"""The boundary around what plugins return."""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from budmlx.errors import InvalidRequestError, PluginError

log = logging.getLogger(__name__)

FAULTS = (Exception, SystemExit)
"""What a plugin may raise; a library that calls sys.exit must not end the server."""

_running: dict[int, tuple[str, str]] = {}


@contextmanager
def guard(plugin: str, what: str) -> Iterator[None]:
    """Call a plugin inside: whatever it raises becomes `PluginError`, and is logged.

    `InvalidRequestError` passes, for a plugin may refuse a request. what: such as `filter`.
    """
    thread = threading.get_ident()
    _running[thread] = (plugin, what)
    try:
        yield
    except (InvalidRequestError, PluginError):
        raise
    except FAULTS as error:
        log.error("Plugin %s failed in its %s: %s", plugin, what, whereabouts(error))
        raise PluginError(
            f"The plugin {plugin} failed in its {what}; the server's log says more."
        ) from error
    finally:
        _running.pop(thread, None)  # routes interleave on one thread


def running_on(thread: int) -> tuple[str, str] | None:
    """The plugin that a thread calls now, and what of it."""
    return _running.get(thread)


def wrong_type(plugin: str, what: str, value: object, wanted: str) -> PluginError:
    """The error for a plugin that returned nonsense, which is logged."""
    got = type(value).__name__
    log.error("Plugin %s: its %s returned %s instead of %s", plugin, what, got, wanted)
    return PluginError(f"The plugin {plugin} failed: its {what} returned {got}, not {wanted}.")


def whereabouts(error: BaseException) -> str:
    """Type and place of an exception, without its message, which may quote a prompt."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    places = [f"{frame.filename}:{frame.lineno}" for frame in reversed(frames)]
    return f"{type(error).__qualname__} at {' < '.join(places)}"
