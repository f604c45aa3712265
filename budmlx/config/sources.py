"""Sources of settings: flags, the environment, a TOML file, in this order of precedence."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from budmlx.backend import DEVICE_VARIABLE
from budmlx.config.config import ENV_PREFIX, Config, Environment
from budmlx.config.explain import TABLES
from budmlx.config.model import ModelConfig
from budmlx.errors import ConfigError

CONFIG_VARIABLE = "BUDMLX_CONFIG"
DEBUG_VARIABLE = "BUDMLX_DEBUG"
DEFAULT_FILE = Path("~/.config/budmlx/config.toml")
# `model` says which of the models is meant, and nothing about them.
OVER_TABLES = ModelConfig.model_fields.keys() - {"model"}


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A configuration and, for each field that is not at its default, where it was set.

    places: by field; the settings of all tables are in the file that `models` has here.
    unknown_variables: `BUDMLX_*` variables of the environment that no field reads.
    """

    config: Config
    places: Mapping[str, str]
    unknown_variables: tuple[str, ...] = ()


def load_config(flags: Mapping[str, Any], file: Path | None = None) -> LoadedConfig:
    """Merge flags over `BUDMLX_*` variables over a TOML file over defaults.

    A flag or a variable applies to all models and overrides the same setting in a table of the
    file. Other settings of a table override those that the file has for all models.

    flags: field names and values; None stands for a flag that was not given.
    file: TOML file; without it `BUDMLX_CONFIG`, then `~/.config/budmlx/config.toml`.

    Raises:
        ConfigError: the file or a value is wrong; the message names the field and its place.
    """
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    if path := _config_file(file):
        values = _read_toml(path)
        places = dict.fromkeys(values, str(path))
    over = dict(Environment(Config)())
    places |= {name: f"{ENV_PREFIX}{name.upper()}" for name in over}
    given = {name: value for name, value in flags.items() if value is not None}
    places |= {name: _flag(name) for name in given}
    over |= given
    if TABLES in values:
        values[TABLES] = _without(values[TABLES], OVER_TABLES & over.keys())
    return LoadedConfig(Config.checked({**values, **over}, places), places, _unknown_variables())


def _without(tables: Any, names: Collection[str]) -> Any:
    """The tables less some settings; what is no table is left for validation to refuse."""
    if not isinstance(tables, dict):
        return tables
    return {
        label: {key: value for key, value in table.items() if key not in names}
        if isinstance(table, dict)
        else table
        for label, table in tables.items()
    }


def _flag(name: str) -> str:
    return "MODEL argument" if name == "model" else f"--{name.replace('_', '-')}"


def _config_file(file: Path | None) -> Path | None:
    """The file to read; a file that somebody named must exist, the default need not."""
    named = file or os.environ.get(CONFIG_VARIABLE)
    path = Path(named or DEFAULT_FILE).expanduser()
    if path.is_file():
        return path
    if named:
        raise ConfigError(f"There is no configuration file {path}.", param="config")
    return None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text.") from error
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}.") from error


def _unknown_variables() -> tuple[str, ...]:
    known = {ENV_PREFIX + name.upper() for name in Config.model_fields.keys() - {TABLES}}
    known |= {CONFIG_VARIABLE, DEBUG_VARIABLE, DEVICE_VARIABLE}
    return tuple(
        sorted(name for name in os.environ if name.startswith(ENV_PREFIX) and name not in known)
    )
