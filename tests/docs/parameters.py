"""The table of sampling parameters, made from their declarations."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_type_hints

from budmlx.types import MAX_BIAS, PARAMETERS, RANGES, PluginChoice, SamplingParams

LARGE = 2**31 - 1
"""A bound from here on says nothing but that there is one."""

VALUES: dict[Any, str] = {
    bool: "`true`, `false`",
    tuple[str, ...]: "strings",
    tuple[int, ...]: "token ids",
    tuple[
        tuple[int, float], ...
    ]: f"token ids, each with a value from {-MAX_BIAS:g} to {MAX_BIAS:g}",
    PluginChoice | None: "an object: `name`, and the plugin's options",
    tuple[PluginChoice, ...]: "a list of such objects",
}
"""What stands for the range of a parameter that is no number."""


def parameters() -> str:
    """The table."""
    lines = ["| Parameter | Values | Default | Meaning |", "| --- | --- | --- | --- |"]
    hints = get_type_hints(SamplingParams)
    for field in fields(SamplingParams):
        values = _range(field.name) if field.name in RANGES else VALUES[hints[field.name]]
        sentence = PARAMETERS[field.name].sentence
        lines.append(f"| `{field.name}` | {values} | {_default(field.default)} | {sentence} |")
    return "\n".join(lines)


def _range(name: str) -> str:
    low, high = RANGES[name]
    if low <= -LARGE:
        return "64-bit integers"
    return f"{low:g} or more" if high >= LARGE else f"{low:g} to {high:g}"


def _default(value: Any) -> str:
    if value in (None, ()):
        return "none"
    return f"`{str(value).lower()}`" if isinstance(value, bool) else f"{value:g}"
