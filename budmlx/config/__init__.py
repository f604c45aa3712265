"""The configuration: one model for flags, `BUDMLX_*` variables and the TOML file.

`model` has the settings, `sources` where they come from, `keys` reads files of API keys.
Imports nothing of budmlx but errors.
"""

from __future__ import annotations

from budmlx.config.model import ENV_PREFIX, Config, explain, kv_directory, size_or_share

__all__ = ["ENV_PREFIX", "Config", "explain", "kv_directory", "size_or_share"]
