"""The effective configuration as TOML that can be read again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from budmlx.config import ModelConfig, ServerConfig
from budmlx.config.explain import TABLES, toml_key, toml_string
from budmlx.config.sources import LoadedConfig


def to_toml(loaded: LoadedConfig) -> str:
    """One line per setting with where it comes from; secrets are counted, not shown."""
    lines = [*_settings(loaded), *_tables(loaded)]
    return "\n".join(lines) + "\n"


def _settings(loaded: LoadedConfig) -> Iterator[str]:
    for name, field in (ModelConfig.model_fields | ServerConfig.model_fields).items():
        value = getattr(loaded.config, name)
        place = loaded.places.get(name, "default")
        yield f"# {field.description}"
        if value is None:
            yield f"# {name} is not set"
        elif isinstance(value, tuple) and any(isinstance(entry, SecretStr) for entry in value):
            yield f"# {name} = {len(value)} not shown  # {place}"
        else:
            yield f"{name} = {_toml(value)}  # {place}"


def _tables(loaded: LoadedConfig) -> Iterator[str]:
    """The tables of `Config.models`, which TOML needs behind everything outside of tables."""
    place = loaded.places.get(TABLES, "default")
    for label, table in loaded.config.models.items():
        yield f"\n[{toml_key(TABLES, label)}]  # {place}"
        for name in ModelConfig.model_fields:
            value = getattr(table, name)
            if name in table.model_fields_set and value is not None:
                yield f"{name} = {_toml(value)}"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | Path):
        return toml_string(str(value))
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{toml_key(name)} = {_toml(entry)}" for name, entry in value.items())
        return f"{{{pairs}}}"
    return "[" + ", ".join(map(_toml, value)) + "]"
