"""Arguments that are written as bare text become what the tool's schema says."""

from __future__ import annotations

import json

import pytest

from budmlx.builtin.tool_parsers.bare import as_json


@pytest.mark.parametrize(
    ("text", "allowed", "value"),
    [
        ("['a', 'it\\'s']", "array", ["a", "it's"]),
        ("{'k': True, 'z': None, 'x': [1, 'y']}", "object", {"k": True, "z": None, "x": [1, "y"]}),
        ('["a\nb"]', "array", ["a\nb"]),
        ('{"a": "b\nc", "d": [true, "\\u00e9"],}', "object", {"a": "b\nc", "d": [True, "\u00e9"]}),
        ('["a",]', "array", ["a"]),
        ("('a', 1)", "array", ["a", 1]),
        (
            "[r'C:\\d', \"\"\"a\"b\"\"\", u'x', 'a' 'b', '']",
            "array",
            ["C:\\d", 'a"b', "x", "ab", ""],
        ),
        ("[.5, 0x1F, 1_000, -5., +1e2]", "array", [0.5, 31, 1000, -5.0, 100.0]),
        ("{1: 'a'}", "object", {"1": "a"}),
        ("None", "integer null", None),
        ("NULL", "array null", None),
        ("TRUE", "boolean", True),
        ("false", "boolean", False),
        ("0x1F", "integer", 31),
        ("5.0", "integer", 5),
        (".5", "number", 0.5),
        # Where a string is allowed too, less is taken for something else.
        ("None", "string null", None),
        ("True", "string boolean", True),
        ("['a']", "string array", ["a"]),
        ("NONE", "string null", "NONE"),
        ("True story", "string boolean", "True story"),
        ("None", "string", "None"),
        ("['a']", "string", "['a']"),
        ("False", "string null", "False"),
        # What is none of these stays as it is.
        ("['a']", "", "['a']"),
        ("('a')", "array", "('a')"),
        ("[1, 2", "array", "[1, 2"),
        ("{'a': {1, 2}}", "object", "{'a': {1, 2}}"),
        ("nan", "number", "nan"),
        ("02134", "integer", "02134"),
    ],
)
def test_values(text: str, allowed: str, value: object) -> None:
    read = json.loads(as_json(text, frozenset(allowed.split())))
    assert (read, type(read)) == (value, type(value))
