"""The tables of all settings, made from the fields of the configuration."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from budmlx.cli.flags import CONFIG_PARTS, has_flag, shown_default
from budmlx.config import ENV_PREFIX


def settings() -> str:
    """A table for each part of the configuration."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    for heading, part in CONFIG_PARTS.items():
        yield f"### {heading}\n"
        yield "| TOML | Flag | Variable | Default | Meaning |"
        yield "|---|---|---|---|---|"
        for name, field in part.model_fields.items():
            flag = f"`{_flag(name)}`" if name == "model" or has_flag(name, field.annotation) else ""
            sentence = re.sub(r"[|*~]", r"\\\g<0>", field.description or "")
            cells = (f"`{name}`", flag, f"`{ENV_PREFIX}{name.upper()}`", _default(field.default))
            yield f"| {' | '.join(cells)} | {sentence} |"
        yield ""


def _flag(name: str) -> str:
    return "MODEL" if name == "model" else f"--{name.replace('_', '-')}"


def _default(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "" if value in (None, ()) else f"`{shown_default(value)}`"
