"""Plugin calls in the core: objects of plugins are imported in this process only, a call that
fails becomes a `PluginFault`, and `NOTE` says which plugin the core's thread is in.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from budmlx.core.activity import NoteWriter
from budmlx.core.model.device_faults import is_device_fault
from budmlx.core.row import Row, RowError, requests_of
from budmlx.errors import ModelLoadError
from budmlx.logs import REQUEST
from budmlx.plugins.boundary import broke, count_fault, is_interrupt, raised, whereabouts
from budmlx.protocol import PluginTarget

log = logging.getLogger(__name__)

# A plugin is slow if its calls take this share of the steps with them, and so many seconds of each
# of these steps. It is looked at whenever these took so many seconds together.
SLOW_SHARE = 0.5
SLOW_SECONDS = 0.002
WINDOW_SECONDS = 1.0
TOLD_SECONDS = 60.0

NOTE = NoteWriter()
"""The note of this process. Its parent reads there which plugin never returns, or ended it."""


class PluginFault(RowError):
    """A plugin raised, or returned a wrong value; the text is for the client."""

    code = "plugin_error"


@dataclass(slots=True)
class _Spent:
    """What the calls of a plugin took of the steps with them, in seconds."""

    own: float = 0.0
    all: float = 0.0
    steps: int = 0


class Pace(threading.local):
    """Tells which plugins are slow, of the core on this thread.

    spent: seconds of calls in the present step, by plugin.
    """

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self._sums: dict[str, _Spent] = {}
        self._silent_until: dict[str, float] = {}

    def add(self, plugin: str, seconds: float) -> None:
        """Add what a call took."""
        self.spent[plugin] = self.spent.get(plugin, 0.0) + seconds

    def step(self, seconds: float) -> None:
        """Record the end of a step."""
        for plugin, own in self.spent.items():
            total = self._sums.setdefault(plugin, _Spent())
            total.own, total.all, total.steps = (
                total.own + own,
                total.all + seconds,
                total.steps + 1,
            )
            if total.all >= WINDOW_SECONDS:
                del self._sums[plugin]
                if total.own >= max(SLOW_SHARE * total.all, SLOW_SECONDS * total.steps):
                    self._tell(plugin, total)
        self.spent.clear()

    def _tell(self, plugin: str, total: _Spent) -> None:
        count_fault(plugin, "slow")
        now = time.monotonic()
        if now >= self._silent_until.get(plugin, now):
            self._silent_until[plugin] = now + TOLD_SECONDS
            log.warning(
                "Plugin %s is slow: its calls take %.0f %% of the steps of its requests, %.1f ms "
                "of each, since they compute in Python or wait for values of arrays",
                plugin,
                100 * total.own / total.all,
                1000 * total.own / total.steps,
            )


PACE = Pace()


def check_targets(targets: Iterable[PluginTarget]) -> None:
    """Import what plugins say that there is. Raises ModelLoadError if a required one is not."""
    for target in targets:
        try:
            if callable(resolve(target.core)):
                continue
            problem = f"{target.core} is no function or class"
        except BaseException as error:
            if is_interrupt(error):
                raise
            problem = f"{target.core} cannot be imported ({whereabouts(error)})"
            if isinstance(error, ImportError | AttributeError):
                problem = f"{target.core} does not exist ({error})"
        words = f"The plugin {target.plugin} has no usable {target.what}: {problem}."
        if target.required:
            raise ModelLoadError(words)
        log.error("%s Requests for it fail.", words)


def resolve(target: str) -> Any:
    """The object that `package.module:attribute` names. Raises whatever the import raises."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


@contextlib.contextmanager
def calling(plugin: str, what: str, rows: Iterable[Row] = ()) -> Iterator[None]:
    """Context of a call of a plugin, which `NOTE` names. what: such as `vision encoder`.

    rows: those that it is for.

    A fault of the device is raised as it is: whoever waits for the device hears of it, and it is
    not the plugin's.

    Raises:
        PluginFault: the plugin raised an error, which is logged.
    """
    NOTE.plugin(plugin)
    begin = time.perf_counter()
    try:
        yield
    except BaseException as error:
        if is_device_fault(error) or is_interrupt(error):
            raise
        REQUEST.set(requests_of(rows))
        raise PluginFault(raised(plugin, what, error)) from error
    finally:
        NOTE.plugin("")
        PACE.add(plugin, time.perf_counter() - begin)
        REQUEST.set("")


@contextlib.contextmanager
def computing(plugin: str) -> Iterator[None]:
    """Context within a call of a plugin in which the device computes what it returned.

    Where it has to build kernels first, that is no hang of the plugin, nor is it slow.
    """
    NOTE.computes(True)
    begin = time.perf_counter()
    try:
        yield
    finally:
        NOTE.computes(False)
        PACE.add(plugin, begin - time.perf_counter())


def fault(plugin: str, what: str, problem: str) -> PluginFault:
    """The fault of a plugin that did not raise, which is logged; see `boundary.broke`."""
    return PluginFault(broke(plugin, what, problem))
