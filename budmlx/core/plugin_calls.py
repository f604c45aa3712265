"""Plugin calls in the core: objects of plugins are imported in this process only, a call that
fails becomes a `PluginFault`, and `CURRENT_PLUGIN` says which plugin the core's thread is in.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from typing import Any

from budmlx.core.model.device_faults import is_device_fault
from budmlx.core.row import RowError
from budmlx.plugins.boundary import FAULTS, broke, raised


class PluginFault(RowError):
    """A plugin raised, or returned a wrong value; the text is for the client."""

    code = "plugin_error"


def resolve(target: str) -> Any:
    """The object that `package.module:attribute` names. Raises whatever the import raises."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


@contextlib.contextmanager
def calling(plugin: str, what: str) -> Iterator[None]:
    """Context of a call of a plugin, which `CURRENT_PLUGIN` names. what: such as `vision encoder`.

    A fault of the device is raised as it is: whoever waits for the device hears of it, and it is
    not the plugin's.

    Raises:
        PluginFault: the plugin raised an error, which is logged.
    """
    CURRENT_PLUGIN.write(plugin)
    try:
        yield
    except FAULTS as error:
        if is_device_fault(error):
            raise
        raise PluginFault(raised(plugin, what, error)) from error
    finally:
        CURRENT_PLUGIN.write("")


def fault(plugin: str, what: str, problem: str) -> PluginFault:
    """The fault of a plugin that did not raise, which is logged; see `boundary.broke`."""
    return PluginFault(broke(plugin, what, problem))


class CurrentPlugin:
    """The plugin that is being called, in a file that outlives this process.

    The parent of a core that never returns reads it. A plugin that waits for the device is
    named for what the device does meanwhile.

    descriptor: of the file; None, as for a core in a thread of its parent, writes nothing.
    """

    def __init__(self) -> None:
        self.descriptor: int | None = None

    def write(self, plugin: str) -> None:
        """Replace the name; an empty one clears it."""
        if self.descriptor is not None:
            # A plain write, since it fails where a write to mapped memory would end the process.
            with contextlib.suppress(OSError):
                os.pwrite(self.descriptor, plugin.encode() + b"\0", 0)


CURRENT_PLUGIN = CurrentPlugin()
"""The plugin that this process is calling."""
