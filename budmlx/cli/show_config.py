"""The effective configuration as TOML that can be read again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from budmlx.config import ModelConfig, ServerConfig
from budmlx.config.explain import TABLES, toml_key, toml_string
from budmlx.config.sources import LoadedConfig
from budmlx.engine.load.generation_config import sampling_defaults
from budmlx.engine.load.hub import SHIPPED_MODEL, local_directory


def to_toml(loaded: LoadedConfig) -> str:
    """One line per setting with where it comes from; secrets are counted, not shown."""
    lines = [*_settings(loaded), *_tables(loaded)]
    return "\n".join(lines) + "\n"


def sampling_comments(loaded: LoadedConfig) -> str:
    """The default sampling parameters of each model, and where they come from, as comments.

    What files of models say is known only where these are on this machine.
    """
    config = loaded.config
    names: list[str | None] = [*config.models]
    if config.model is not None or not names:
        names = [None, *(label for label in config.models if not config.is_main(label))]
    lines: list[str] = []
    for name in names:
        lines += _sampling(loaded.for_model(name))
    return "\n".join(lines) + "\n"


def _sampling(loaded: LoadedConfig) -> Iterator[str]:
    """loaded: as it is for one model."""
    config = loaded.config
    name = toml_key(config.model) if config.model else "the demo model"
    path: Path | None = SHIPPED_MODEL
    if config.model:
        path = local_directory(config.model, config.revision, models_dirs=config.models_dir)
    yield f"\n# Default sampling parameters of {name}"
    if path is None and config.generation_config:
        yield "# Its generation_config.json is not here yet and may have more."
    defaults, problems = sampling_defaults(path, config)
    yield from (f"# {problem}" for problem in problems)
    for parameter, default in defaults.items():
        place: str = default.source
        if place == "config":
            place = loaded.places.get("default_sampling", place)
        yield f"# {parameter} = {_toml(default.value)}  # {place}"


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
