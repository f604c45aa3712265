"""Choice of the table of `models` that is about a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from budmlx.config.explain import TABLES, toml_key
from budmlx.config.model import ModelConfig
from budmlx.errors import ConfigError


def table_for(tables: Mapping[str, ModelConfig], model: str | None) -> str | None:
    """The name of the table for a model; None if it has none.

    A table is for a model that has the name of the table or an alias in it, or that is at the
    place of its `model`. model: None stands for the only one that has a table.

    Raises:
        ConfigError: several tables fit.
    """
    if model is None:
        if len(tables) > 1:
            raise ConfigError(
                f"Several models are configured ({', '.join(tables)}): name one of them as "
                "MODEL, in BUDMLX_MODEL or by model in the file.",
                param="model",
            )
        return next(iter(tables), None)
    if model in tables:
        return model
    found = [name for name, table in tables.items() if _is_for(name, table, model)]
    if len(found) > 1:
        keys = " and ".join(toml_key(TABLES, name) for name in found)
        raise ConfigError(f"{keys} are both for {model}: name one of them.", param="model")
    return found[0] if found else None


def where_is(label: str, table: ModelConfig, wanted: str | None) -> str:
    """The place of the model of a table found for `wanted`: its `model`, a directory, or a name."""
    if table.model is not None:
        return table.model
    return label if wanted is None or wanted in table.alias else wanted


def same_place(one: str | None, other: str | None) -> bool:
    """Whether two models are one directory."""
    directory = None if one is None or other is None else _directory(one)
    return directory is not None and directory == _directory(str(other))


def _is_for(label: str, table: ModelConfig, model: str) -> bool:
    if model in (*table.alias, table.model):
        return True
    directory = _directory(model)
    if directory is None:
        return False
    # A directory is called by its last part where it is served.
    return directory == _directory(table.model or label) or (
        table.model is None and directory.name == label
    )


def _directory(model: str) -> Path | None:
    path = Path(model).expanduser()
    return path.resolve() if path.is_dir() else None
