"""The boundary around calls of plugins: exceptions, wrong results and calls that take too long.

All failures are logged and worded here, for all rings. Messages name the plugin and its part that
failed; only the log has the place in the code.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, get_args

from budmlx.errors import InvalidRequestError, PluginError

log = logging.getLogger(__name__)

FAULTS = (Exception, SystemExit)
"""Exceptions of plugins that are caught; a library that calls sys.exit must not end the server."""

FaultKind = Literal["raised", "broke", "hangs", "crashed"]
"""A plugin raised, returned something wrong, does not return, or ended the core."""

_running: dict[int, tuple[str, str]] = {}
_counting = threading.Lock()
FAULT_COUNTS: Mapping[str, Mapping[str, int]] = {}
"""The faults of plugins in this process so far, by plugin and kind; replaced, never changed, so
that any thread may read it."""


def count_fault(plugin: str, kind: FaultKind) -> None:
    """Count a fault of a plugin."""
    global FAULT_COUNTS
    with _counting:
        kinds = FAULT_COUNTS.get(plugin) or dict.fromkeys(get_args(FaultKind), 0)
        FAULT_COUNTS = {**FAULT_COUNTS, plugin: {**kinds, kind: kinds[kind] + 1}}


@contextmanager
def calling(plugin: str, what: str) -> Iterator[None]:
    """Context of a call of a plugin. what: the part of it, such as `filter`.

    Raises:
        PluginError: the plugin raised something else than the next, which is logged.
        InvalidRequestError: the plugin refuses the request.
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


def running_on(thread: int) -> tuple[str, str] | None:
    """The plugin that a thread is calling, and the part of it; None if there is none."""
    return _running.get(thread)


def raised(plugin: str, what: str, error: BaseException) -> str:
    """Log what a plugin raised; returns the message for clients."""
    count_fault(plugin, "raised")
    log.error("Plugin %s failed in its %s: %s", plugin, what, whereabouts(error))
    log.debug("What it raised:", exc_info=error)
    return f"The plugin {plugin} failed in its {what}; the server's log says more."


def broke(plugin: str, what: str, problem: str) -> str:
    """Log what a plugin did wrong without raising; returns the message for clients.

    problem: such as `returned str, not a list`.
    """
    count_fault(plugin, "broke")
    log.error("Plugin %s: its %s %s", plugin, what, problem)
    return f"The plugin {plugin} failed: its {what} {problem}."


def wrong_type(plugin: str, what: str, value: object, wanted: str) -> PluginError:
    """The error for a plugin that returned a value of a wrong type; it is logged."""
    return PluginError(broke(plugin, what, f"returned {type(value).__name__}, not {wanted}"))


def hangs(plugin: str, what: str, seconds: float) -> PluginError:
    """The error for a plugin that does not return in time; it is logged."""
    count_fault(plugin, "hangs")
    log.error("Plugin %s hangs in its %s", plugin, what)
    return PluginError(f"The plugin {plugin} failed: its {what} took more than {seconds:g} s.")


def whereabouts(error: BaseException) -> str:
    """Type and place of an exception, without its message, which may quote a prompt."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    places = [f"{frame.filename}:{frame.lineno}" for frame in reversed(frames)]
    return f"{type(error).__qualname__} at {' < '.join(places)}"
