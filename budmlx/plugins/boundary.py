"""The boundary around calls of plugins: exceptions, wrong results and calls that take too long.

All failures are logged and worded here, for all rings. Messages name the plugin and its part that
failed; only the log has the place in the code.
"""

from __future__ import annotations

import logging
import signal
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, get_args

from budmlx.errors import InvalidRequestError, PluginError
from budmlx.plugins.pace import Pace

log = logging.getLogger(__name__)

FaultKind = Literal["raised", "broke", "hangs", "crashed", "slow", "blocks"]
"""A plugin raised, returned something wrong, does not return, or ended the core; it took most of
the time of steps or of a thread, or kept the event loop from serving."""

MOST_CHARACTERS = 4 * 2**20
"""Of a text that a plugin returns."""
MOST_OF_A_REFUSAL = 2000
"""The same of the message with which it refuses a request."""

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


def _is_slow(plugin: str, share: float, call: float, due: bool) -> None:
    count_fault(plugin, "slow")
    if due:
        log.warning(
            "Plugin %s is slow: its calls in the engine take %.0f %% of the time of a thread, "
            "%.1f ms each",
            plugin,
            100 * share,
            1000 * call,
        )


PACE = Pace(_is_slow)


def is_interrupt(error: BaseException) -> bool:
    """Whether an exception may be the Ctrl-C of a user, which is no plugin's.

    Python raises it on the main thread, where nothing else handles the signal, as a server does.
    """
    return (
        isinstance(error, KeyboardInterrupt)
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )


@contextmanager
def guarded(plugin: str, what: str) -> Iterator[None]:
    """Context of code of a plugin. what: the part of it, such as `filter`.

    Whatever it raises is its fault, also what ends tasks, threads or programs elsewhere.

    Raises:
        PluginError: the plugin raised something else than the next, which is logged.
        InvalidRequestError: the plugin refuses the request.
    """
    try:
        yield
    except PluginError:
        raise
    except InvalidRequestError as error:
        checked_text(plugin, what, error.message, MOST_OF_A_REFUSAL)
        raise
    except BaseException as error:
        if is_interrupt(error):
            raise
        raise PluginError(raised(plugin, what, error)) from error


@contextmanager
def calling(plugin: str, what: str) -> Iterator[None]:
    """`guarded` for a call that waits for nothing: `running_on` names it until it returns.

    A plugin whose calls take most of the time is named in the log, and counted.
    """
    thread = threading.get_ident()
    outer = _running.get(thread)  # of a plugin that uses an engine itself
    _running[thread] = (plugin, what)
    begin = PACE.begin()
    try:
        with guarded(plugin, what):
            yield
    finally:
        PACE.end(plugin, begin)
        if outer is None:
            del _running[thread]
        else:
            _running[thread] = outer


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


def checked_text(plugin: str, what: str, text: object, most: int = MOST_CHARACTERS) -> str:
    """A text of a plugin, if it is one that can be sent to clients.

    Raises:
        PluginError: it is no text, too long, or has parts of characters.
    """
    if not isinstance(text, str):
        raise wrong_type(plugin, what, text, "text")
    problem = ""
    if len(text) > most:
        problem = f"returned a text of {len(text):,} characters, of at most {most:,}"
    elif not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            problem = "returned a text with surrogates, which are no characters"
    if problem:
        raise PluginError(broke(plugin, what, problem))
    return text


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
