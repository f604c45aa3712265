"""The configuration: a server part and one for each model, from flags, variables and a TOML file.

`model` and `server` have the settings, `config` both together and the tables of single models,
`tables` which of these is for a model, `sources` where settings come from, `values` their types,
`explain` the words for errors, `keys` reads files of API keys, `key_file` changes them. Imports
nothing of budmlx but errors, types, the user's directories and the name of a variable in `backend`.
"""

from __future__ import annotations

from budmlx.config.config import ENV_PREFIX, Config
from budmlx.config.explain import explain
from budmlx.config.model import ModelConfig
from budmlx.config.server import Options, ServerConfig
from budmlx.config.values import (
    Adapters,
    Names,
    Secrets,
    SizeOrShare,
    adapter_path,
    adapter_paths,
    is_adapter_name,
    kv_directory,
    size_or_share,
)
from budmlx.directories import cache_directory

__all__ = [
    "ENV_PREFIX",
    "Adapters",
    "Config",
    "ModelConfig",
    "Names",
    "Options",
    "Secrets",
    "ServerConfig",
    "SizeOrShare",
    "adapter_path",
    "adapter_paths",
    "cache_directory",
    "explain",
    "is_adapter_name",
    "kv_directory",
    "size_or_share",
]
