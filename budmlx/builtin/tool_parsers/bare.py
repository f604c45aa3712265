"""The JSON values of arguments that are written as bare text, without quotes around strings."""

from __future__ import annotations

from budmlx.builtin.reader import Broken
from budmlx.builtin.tool_parsers.json_text import parse
from budmlx.builtin.tool_parsers.literals import PYTHON, Tokens
from budmlx.builtin.tool_parsers.schema import dumps, kind

_WORDS = {"true": "true", "false": "false", "none": "null", "null": "null"}


def as_json(text: str, allowed: frozenset[str]) -> str:
    """The JSON text of an argument that was written as `text`, in JSON or as Python does.

    allowed: what `kinds` says. What cannot be read as any of these becomes a string.
    """
    if allowed == {"string"}:
        return dumps(text)
    written = text.strip()
    try:
        value = parse(written)
    except Broken:
        try:
            written = _python(written, allowed)
        except Broken:
            return dumps(text)
        value = parse(written)
    found = kind(value)
    if not allowed or (found in allowed and found != "string"):
        return written
    if found == "integer" and "number" in allowed:
        return written
    if found == "number" and "integer" in allowed and value.is_integer():
        return str(int(value))
    return dumps(text)


def _python(text: str, allowed: frozenset[str]) -> str:
    """The JSON text of a value that Python would write so. Raises Broken if it is none.

    Where a string is allowed too, only what can hardly be one is taken for something else.
    """
    if not allowed or ("string" in allowed and text[:1] not in ("[", "{", "N", "T", "F")):
        raise Broken
    if "string" not in allowed and text.lower() in _WORDS:
        return _WORDS[text.lower()]
    tokens = Tokens(text, PYTHON)
    value = tokens.value()
    if not tokens.ended:
        raise Broken
    return value
