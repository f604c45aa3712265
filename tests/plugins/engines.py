"""Engines of live plugins with limits that a test need not wait for."""

from __future__ import annotations

from pathlib import Path

from budmlx import Engine
from budmlx.config import Config
from budmlx.plugins.limits import PluginLimits
from budmlx.plugins.manager import Plugins


def load_within(limits: PluginLimits, path: Path, *plugins: object) -> Engine:
    """The model in a directory, with these plugins within these limits."""
    config = Config.of(engine_host="thread", model=str(path)).for_model()
    return Engine(path, path.name, config, Plugins.load(config, plugins, limits))
