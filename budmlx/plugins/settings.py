"""Settings of plugins, which `--plugin-option NAME.SETTING=VALUE` sets.

A plugin declares them beside its hooks, by a name and a pydantic model:

```python
plugin_options = {"tutorial": Settings}
```

A hook that takes `config` reads them with `config.options_of("tutorial", Settings)`. When plugins
are loaded, every option is checked: a name that no plugin declares, a setting that the model does
not have and a value that it refuses fail the start.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pydantic import BaseModel

from budmlx.config import ServerConfig
from budmlx.errors import ConfigError

log = logging.getLogger(__name__)

ATTRIBUTE = "plugin_options"

Declared = Mapping[str, type[BaseModel]]


@dataclass(frozen=True, slots=True)
class Settings:
    """What the plugins of an engine say about their settings.

    declared: all models. silent: names of plugins that declare nothing; True where a hook takes
    `config`, so that there may be settings all the same. absent: those that were left out.
    """

    declared: Declared
    silent: Mapping[str, bool]
    absent: Collection[str]

    def check(self, config: ServerConfig) -> None:
        """Raise ConfigError for an option that no plugin takes."""
        for name in config.plugin_options():
            if name in self.declared:
                config.options_of(name, self.declared[name])
            elif self.silent.get(name) or name in self.absent:
                continue
            elif name not in self.silent and any(self.silent.values()):
                # One of those that read the configuration may call itself by this name.
                log.warning("plugin_option: no plugin declares settings of %s", name)
            else:
                raise ConfigError(f"plugin_option: {self._missing(name)}", param="plugin_option")

    def _missing(self, name: str) -> str:
        if not self.declared:
            return f"there are no settings of {name}: no plugin that is loaded has any."
        close = difflib.get_close_matches(name, self.declared, n=1)
        hint = f"did you mean {close[0]}?" if close else f"only of {', '.join(self.declared)}."
        return f"there are no settings of {name}; {hint}"


def declared_by(plugin: object) -> Declared:
    """The settings that a plugin declares. Raises ValueError for other values."""
    declared = getattr(plugin, ATTRIBUTE, {})
    if not isinstance(declared, Mapping) or not all(
        isinstance(name, str) and isinstance(model, type) and issubclass(model, BaseModel)
        for name, model in declared.items()
    ):
        raise ValueError(f"{ATTRIBUTE} must be a dict from names to pydantic models")
    return declared
