"""What plugins name for the core: imported here, and in no other process."""

from __future__ import annotations

import importlib
from typing import Any


class PluginFault(Exception):
    """A plugin raised or returned nonsense; the text is for the client."""


def resolve(target: str) -> Any:
    """The object that `package.module:attribute` names. Raises whatever the import raises."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)
