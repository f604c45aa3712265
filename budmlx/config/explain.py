"""Validation errors of settings, as one line for their author."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Mapping

from pydantic import ValidationError

from budmlx.config.model import ModelConfig

TABLES = "models"
_NO_TABLE = {"mapping_type", "dict_type", "model_type", "model_attributes_type"}


def explain(
    error: ValidationError,
    places: Mapping[str, str] | None = None,
    names: Collection[str] = (),
) -> str:
    """One line that names every wrong field and where it was set; values are not shown.

    places: for a field, the flag, variable or file that set it; for `models`, the file of all
    tables. names: the fields that there are, for those that are misspelt.
    """
    problems = []
    for detail in error.errors(include_url=False, include_input=False, include_context=False):
        path = [str(part) for part in detail["loc"]]
        path = path[:3] if path[:1] == [TABLES] else path[:1]
        place = (places or {}).get(path[0]) if path else None
        if detail["type"] == "extra_forbidden":
            text = _unknown(path, names)
        elif detail["type"] in _NO_TABLE:
            text = "must be a table"
        else:
            text = plain(detail["msg"])
        name = toml_key(*path) or "configuration"
        problems.append(f"{name}{f' ({place})' if place else ''}: {text}")
    return "; ".join(problems)


def plain(message: str) -> str:
    """A message of pydantic's, or of a validator's own, in plain words and without a full stop."""
    for prefix in ("Value error, ", "Assertion failed, "):
        message = message.removeprefix(prefix)
    return message.replace("Input should be", "must be").rstrip(".")


def toml_key(*parts: str) -> str:
    """A dotted key as TOML writes it: `models."org/name".kv_bits`."""
    return ".".join(
        part if re.fullmatch("[A-Za-z0-9_-]+", part) else toml_string(part) for part in parts
    )


def toml_string(text: str) -> str:
    """A basic string of TOML: one of JSON, but TOML wants DEL escaped, too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _unknown(path: list[str], names: Collection[str]) -> str:
    """The problem of a key that is no setting, or none of a model."""
    in_table = len(path) > 1
    if in_table and path[-1] in names and path[-1] != TABLES:
        return "is the server's, not a model's; it stands before the tables"
    close = difflib.get_close_matches(
        path[-1], ModelConfig.model_fields if in_table else names, n=1
    )
    return "there is no such setting" + (f" (did you mean {close[0]}?)" if close else "")
