"""Commands that plugins add. Imported only when plugins are installed."""

from __future__ import annotations

import importlib
import sys

from budmlx.config.sources import load_config
from budmlx.errors import BudmlxError, PluginError
from budmlx.plugins.boundary import is_interrupt
from budmlx.plugins.manager import Plugins


def commands() -> dict[str, tuple[str, str, str]]:
    """Target, summary and plugin of each command, by name.

    A configuration or plugin that cannot be used is reported: `budmlx --help` must work.
    """
    try:
        plugins = Plugins.load(load_config({}).config)
    except BudmlxError as error:
        print(f"budmlx: plugins are not loaded: {error.message}", file=sys.stderr)
        return {}
    specs = plugins.named("add_commands")
    return {
        name: (owned.value.target, owned.value.summary, owned.plugin)
        for name, owned in specs.items()
    }


def check_target(plugin: str, name: str, target: str) -> None:
    """Import what a command runs. Raises PluginError naming the plugin, whatever is raised."""
    module, _, function = target.partition(":")
    try:
        getattr(importlib.import_module(module), function)
    except BaseException as error:
        if is_interrupt(error):
            raise
        raise PluginError(
            f"The plugin {plugin} has no usable command {name}: {target} cannot be imported: "
            f"{type(error).__name__}: {error}. --debug shows where."
        ) from error
