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
from budmlx.config.explain import TABLES, toml_key
from budmlx.config.model import OF_ONE_MODEL, ModelConfig
from budmlx.config.tables import table_for
from budmlx.errors import ConfigError

CONFIG_VARIABLE = "BUDMLX_CONFIG"
DEBUG_VARIABLE = "BUDMLX_DEBUG"
BASE_URL_VARIABLE = "BUDMLX_BASE_URL"
API_KEY_VARIABLE = "BUDMLX_API_KEY"
OTHERS = frozenset(
    {CONFIG_VARIABLE, DEBUG_VARIABLE, BASE_URL_VARIABLE, API_KEY_VARIABLE, DEVICE_VARIABLE}
)
"""Variables that are no settings."""
DEFAULT_FILE = Path("~/.config/budmlx/config.toml")
# Of a model that is not the one meant, its table alone says these.
FOR_ALL = ModelConfig.model_fields.keys() - OF_ONE_MODEL


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A configuration and, for each field that is not at its default, where it was set.

    places: by field; the settings of all tables are in the file that `models` has here.
    unknown_variables: `BUDMLX_*` variables of the environment that no field reads.
    """

    config: Config
    places: Mapping[str, str]
    unknown_variables: tuple[str, ...] = ()

    def for_model(self, name: str | None = None) -> LoadedConfig:
        """`Config.for_model` with the places of the model's own settings.

        A setting of a table has the place `FILE [models.NAME]`.

        Raises:
            ConfigError: see `Config.for_model`.
        """
        config, places = self.config, dict(self.places)
        label = table_for(config.models, config.model if name is None else name)
        if not config.is_main(name):
            places = {key: place for key, place in places.items() if key not in OF_ONE_MODEL}
        if label is not None:
            table = f"{places.get(TABLES, 'default')} [{toml_key(TABLES, label)}]"
            places |= dict.fromkeys(config.models[label].model_fields_set, table)
        places.pop(TABLES, None)
        return LoadedConfig(config.for_model(name), places, self.unknown_variables)


def load_config(flags: Mapping[str, Any], file: Path | None = None) -> LoadedConfig:
    """Merge flags over `BUDMLX_*` variables over a TOML file over defaults.

    A flag or a variable applies to all models and overrides the same setting in every table of
    the file; one `OF_ONE_MODEL` does so for the model that is meant without a name. Other settings
    of a table override those that the file has for all models.

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
    config = _over_tables(Config.checked({**values, **over}, places), over.keys())
    return LoadedConfig(config, places, _unknown_variables())


def _over_tables(config: Config, names: Collection[str]) -> Config:
    """The configuration without what its tables say of settings that flags or variables have."""
    for_all, of_one = FOR_ALL & set(names), (OF_ONE_MODEL - {"model"}) & set(names)
    tables = {}
    for label, table in config.models.items():
        over = for_all | of_one if of_one and config.is_main(label) else for_all
        kept = table.model_fields_set - over
        tables[label] = ModelConfig(**{key: getattr(table, key) for key in kept})
    return config.model_copy(update={TABLES: tables})


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
    known = {ENV_PREFIX + name.upper() for name in Config.model_fields.keys() - {TABLES}} | OTHERS
    return tuple(
        sorted(name for name in os.environ if name.startswith(ENV_PREFIX) and name not in known)
    )
