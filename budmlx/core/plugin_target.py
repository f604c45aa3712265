"""What plugins name for the core: imported here, and in no other process."""

from __future__ import annotations

import importlib
from typing import Any

from budmlx.core.row import RowError


class PluginFault(RowError):
    """A plugin raised or returned nonsense."""

    code = "plugin_error"


def resolve(target: str) -> Any:
    """The object that `package.module:attribute` names. Raises whatever the import raises."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)
