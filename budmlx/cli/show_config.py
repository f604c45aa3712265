"""Print the effective configuration as TOML that could be read again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from budmlx.config.sources import LoadedConfig


def to_toml(loaded: LoadedConfig) -> str:
    """One line per setting with where it comes from; secrets are counted, not shown."""
    return "\n".join(_lines(loaded)) + "\n"


def _lines(loaded: LoadedConfig) -> Iterator[str]:
    for name, field in type(loaded.config).model_fields.items():
        value = getattr(loaded.config, name)
        place = loaded.places.get(name, "default")
        yield f"# {field.description}"
        if value is None:
            yield f"# {name} is not set"
        elif isinstance(value, tuple) and any(isinstance(entry, SecretStr) for entry in value):
            yield f"# {name} = {len(value)} not shown  # {place}"
        else:
            yield f"{name} = {_toml(value)}  # {place}"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | Path):
        # A JSON string is a TOML string, but TOML wants DEL escaped, too.
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    return "[" + ", ".join(map(_toml, value)) + "]"
