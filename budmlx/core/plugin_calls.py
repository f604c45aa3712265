"""Plugin calls in the core: objects of plugins are imported in this process only, a call that
fails becomes a `PluginFault`, and `NOTE` says which plugin the core's thread is in.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterable, Iterator
from typing import Any

from budmlx.core.activity import NoteWriter
from budmlx.core.model.device_faults import is_device_fault
from budmlx.core.row import Row, RowError, requests_of
from budmlx.logs import REQUEST
from budmlx.plugins.boundary import FAULTS, broke, raised

NOTE = NoteWriter()
"""The note of this process. Its parent reads there which plugin never returns, or ended it."""


class PluginFault(RowError):
    """A plugin raised, or returned a wrong value; the text is for the client."""

    code = "plugin_error"


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
    try:
        yield
    except FAULTS as error:
        if is_device_fault(error):
            raise
        REQUEST.set(requests_of(rows))
        raise PluginFault(raised(plugin, what, error)) from error
    finally:
        NOTE.plugin("")
        REQUEST.set("")


@contextlib.contextmanager
def computing() -> Iterator[None]:
    """Context within a plugin's call in which the device computes what the plugin returned.

    Where it has to build kernels first, that is no hang of the plugin.
    """
    NOTE.computes(True)
    try:
        yield
    finally:
        NOTE.computes(False)


def fault(plugin: str, what: str, problem: str) -> PluginFault:
    """The fault of a plugin that did not raise, which is logged; see `boundary.broke`."""
    return PluginFault(broke(plugin, what, problem))
