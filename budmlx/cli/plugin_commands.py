"""Commands that plugins add. Imported only when plugins are installed."""

from __future__ import annotations

import sys

from budmlx.config.sources import load_config
from budmlx.errors import BudmlxError
from budmlx.plugins.manager import Plugins


def commands() -> dict[str, tuple[str, str]]:
    """Target and summary of each command, by name.

    A configuration or plugin that cannot be used is reported: `budmlx --help` must work.
    """
    try:
        plugins = Plugins.load(load_config({}).config)
    except BudmlxError as error:
        print(f"budmlx: plugins are not loaded: {error.message}", file=sys.stderr)
        return {}
    specs = plugins.named("add_commands")
    return {name: (owned.value.target, owned.value.summary) for name, owned in specs.items()}
