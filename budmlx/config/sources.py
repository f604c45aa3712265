"""Where settings come from: flags, the environment, a TOML file, in this order."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource

from budmlx.config.model import ENV_PREFIX, Config, explain
from budmlx.errors import ConfigError

CONFIG_VARIABLE = "BUDMLX_CONFIG"
DEBUG_VARIABLE = "BUDMLX_DEBUG"
DEFAULT_FILE = Path("~/.config/budmlx/config.toml")


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A configuration and, for each field that is not at its default, where it was set.

    unknown_variables: `BUDMLX_*` variables of the environment that no field reads.
    """

    config: Config
    places: Mapping[str, str]
    unknown_variables: tuple[str, ...] = ()


def load_config(flags: Mapping[str, Any], file: Path | None = None) -> LoadedConfig:
    """Merge flags over `BUDMLX_*` variables over a TOML file over defaults.

    flags: field names and values; None stands for a flag that was not given.
    file: TOML file; without it `BUDMLX_CONFIG`, then `~/.config/budmlx/config.toml`.

    Raises:
        ConfigError: the file or a value is wrong; the message names the field and its place.
    """
    layers: list[tuple[Mapping[str, Any], str]] = []
    if path := _config_file(file):
        layers.append((_read_toml(path), str(path)))
    layers.append((EnvSettingsSource(Config)(), ""))
    layers.append(({name: value for name, value in flags.items() if value is not None}, "--"))
    values: dict[str, Any] = {}
    places: dict[str, str] = {}
    for layer, place in layers:
        for name, value in layer.items():
            values[name] = value
            places[name] = _place(name, place)
    try:
        config = Config(**values)
    except ValidationError as error:
        raise ConfigError(explain(error, places)) from error
    return LoadedConfig(config, places, _unknown_variables())


def _place(name: str, layer: str) -> str:
    if layer == "--":
        return "MODEL argument" if name == "model" else f"--{name.replace('_', '-')}"
    return layer or f"{ENV_PREFIX}{name.upper()}"


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
    known = {ENV_PREFIX + name.upper() for name in Config.model_fields}
    known |= {CONFIG_VARIABLE, DEBUG_VARIABLE}
    return tuple(
        sorted(name for name in os.environ if name.startswith(ENV_PREFIX) and name not in known)
    )
