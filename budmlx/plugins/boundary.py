"""The boundary around calls of plugins: what they raise, what they return, how long they take.

Whatever goes wrong is logged and worded here, for all rings. Messages say which plugin failed in
what; only the log says where.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from typing import TypeVar

from budmlx.errors import InvalidRequestError, PluginError
from budmlx.threads import run_apart

log = logging.getLogger(__name__)

FAULTS = (Exception, SystemExit)
"""What a plugin may raise; a library that calls sys.exit must not end the server."""

T = TypeVar("T")

_running: dict[int, tuple[str, str]] = {}


@contextmanager
def calling(plugin: str, what: str) -> Iterator[None]:
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
        raise PluginError(raised(plugin, what, error)) from error
    finally:
        _running.pop(thread, None)  # routes interleave on one thread


def call_apart(plugin: str, what: str, function: Callable[[], T], seconds: float) -> T:
    """Call a plugin on a thread of its own, for `seconds` at most.

    Python cannot stop a call: one that takes longer goes on there. Raises as `calling` does.
    """
    future = run_apart("budmlx-plugin", function)
    if wait([future], seconds).not_done:
        raise hangs(plugin, what, seconds)
    with calling(plugin, what):
        return future.result()


def running_on(thread: int) -> tuple[str, str] | None:
    """The plugin that a thread calls now, and what of it."""
    return _running.get(thread)


def raised(plugin: str, what: str, error: BaseException) -> str:
    """Log what a plugin raised; returns the message for clients."""
    log.error("Plugin %s failed in its %s: %s", plugin, what, whereabouts(error))
    return f"The plugin {plugin} failed in its {what}; the server's log says more."


def broke(plugin: str, what: str, problem: str) -> str:
    """Log what a plugin did wrong without raising; returns the message for clients.

    problem: such as `returned str, not a list`.
    """
    log.error("Plugin %s: its %s %s", plugin, what, problem)
    return f"The plugin {plugin} failed: its {what} {problem}."


def wrong_type(plugin: str, what: str, value: object, wanted: str) -> PluginError:
    """The error for a plugin that returned nonsense, which is logged."""
    return PluginError(broke(plugin, what, f"returned {type(value).__name__}, not {wanted}"))


def hangs(plugin: str, what: str, seconds: float) -> PluginError:
    """The error for a plugin that does not return in time, which is logged."""
    log.error("Plugin %s hangs in its %s", plugin, what)
    return PluginError(f"The plugin {plugin} failed: its {what} took more than {seconds:g} s.")


def whereabouts(error: BaseException) -> str:
    """Type and place of an exception, without its message, which may quote a prompt."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    places = [f"{frame.filename}:{frame.lineno}" for frame in reversed(frames)]
    return f"{type(error).__qualname__} at {' < '.join(places)}"
