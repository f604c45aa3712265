"""Schemas: what is left out before llguidance takes them, and what is not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer

from budmlx import Engine
from budmlx.engine.procedures import Mailbox
from budmlx.engine.request.grammars import MAX_FORM, grammar_of
from budmlx.engine.request.python_api import chat_request
from budmlx.engine.request.schemas import (
    FORMATS,
    MAX_PATTERN,
    check_pattern,
    constrainable,
    unknown_formats,
)
from budmlx.errors import InvalidRequestError
from tests.models import tiny_model_dir

UNKNOWN = ("path", "file-path", "password", "uuid4", "binary", "base64", "byte", "regex", "color")
UNKNOWN += ("int32", "int64", "double", "url", "phone", "decimal", "ipvanyaddress", "x", "iri")
UNKNOWN += ("uri-reference", "json-pointer", "idn-email", "idn-hostname")


@pytest.fixture(scope="module")
def tokenizer() -> LLTokenizer:
    return LLTokenizer((tiny_model_dir() / "tokenizer.json").read_text("utf-8"))


def problem(tokenizer: LLTokenizer, schema: Any) -> str:
    source = LLMatcher.grammar_from_json_schema(schema)
    matcher = LLMatcher(tokenizer, source, log_level=0)
    return matcher.get_error() if matcher.is_error() else ""


@pytest.mark.parametrize("kind", ["string", "integer", "number"])
def test_unknown_formats_are_annotations(tokenizer: LLTokenizer, kind: str) -> None:
    for name in UNKNOWN:
        schema = {"type": kind, "format": name}
        assert not problem(tokenizer, constrainable(schema, "s")) and unknown_formats(schema)


def test_known_formats_are_those_of_llguidance(tokenizer: LLTokenizer) -> None:
    for name in FORMATS:
        schema = {"type": "string", "format": name}
        assert not problem(tokenizer, schema) and not unknown_formats(schema)
        assert constrainable(schema, "s")["format"] == name
    assert all("Unknown format" in problem(tokenizer, {"format": name}) for name in UNKNOWN)


def test_properties_and_data_called_format_stay() -> None:
    schema = {
        "properties": {"format": {"type": "string", "format": "path"}, "x": {"enum": ["a"]}},
        "$defs": {"y": {"anyOf": [{"format": "byte"}, {"const": {"format": "byte"}}]}},
        "default": {"format": "z"},
    }
    taken = constrainable(schema, "s")
    assert taken["properties"] == {"format": {"type": "string"}, "x": {"enum": ["a"]}}
    assert taken["$defs"] == {"y": {"anyOf": [{}, {"const": {"format": "byte"}}]}}
    assert taken["default"] == {"format": "z"} and unknown_formats(schema) == {"path", "byte"}


DATA_WORDS = ("enum", "const", "default", "examples", "x-guidance", "format", "pattern", "minimum")


@pytest.mark.parametrize("place", ["properties", "patternProperties", "$defs"])
def test_properties_may_be_called_as_keywords_are(tokenizer: LLTokenizer, place: str) -> None:
    inner = {"type": "array", "items": {"type": "string", "format": "path"}}
    schema = {"type": "object", place: dict.fromkeys(DATA_WORDS, inner)}
    taken = constrainable(schema, "s")
    plain = {"type": "array", "items": {"type": "string"}}
    assert taken[place] == dict.fromkeys(DATA_WORDS, plain)
    assert unknown_formats(schema) == {"path"}
    # Patterns that may match the same name are a limit of llguidance's own.
    assert place == "patternProperties" or not problem(tokenizer, taken)
    bad = {"type": "object", place: {"default": {"type": "string", "pattern": "a**"}}}
    with pytest.raises(InvalidRequestError) as caught:
        constrainable(bad, "s")
    assert caught.value.param == f"s.{place}.default.pattern"


@pytest.mark.parametrize("kind", ["integer", "number"])
@pytest.mark.parametrize("exclusive", [False, True])
def test_bounds_of_any_size(tokenizer: LLTokenizer, kind: str, exclusive: bool) -> None:
    names = ("exclusiveMinimum", "exclusiveMaximum") if exclusive else ("minimum", "maximum")
    for low, high in ((-(2**63), 2**63 - 1), (0, 2**64 - 1), (-(2**200), 2**200), (-1e30, 1e30)):
        schema = {"type": kind, names[0]: low, names[1]: high}
        assert not problem(tokenizer, constrainable(schema, "s")), (low, high)
    assert constrainable({"minimum": -5, "maximum": 2**53}, "s")["maximum"] == 2**53


@pytest.mark.parametrize("end", ["", "\\", "]"])
def test_the_time_to_check_a_pattern_grows_with_its_length(end: str) -> None:
    # If it grew with the square of it, this would take minutes.
    for _ in range(64):
        check_pattern("[" * (MAX_PATTERN - 1) + end, "p")
        check_pattern("([" * (MAX_PATTERN // 2 - 1) + end, "p")


@pytest.mark.parametrize(
    ("pattern", "doubled"),
    [("a+*", True), ("[*+]*", False), (r"[\]*+]+", False), (r"\[+*", True), (r"[\\]+*", True)],
)
def test_doubled_quantifiers_are_refused(pattern: str, doubled: bool) -> None:
    with pytest.raises(InvalidRequestError) if doubled else nullcontext():
        check_pattern(pattern, "p")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load() as loaded:
        yield loaded


def many(count: int) -> dict[str, Any]:
    properties = {f"p{number}": {"type": "integer"} for number in range(count)}
    return {"type": "object", "properties": properties}


def test_what_is_too_large_is_refused_by_name(engine: Engine) -> None:  # LIMITS 71
    place, large = "response_format", many(MAX_FORM // 40)
    long = "a" * (MAX_PATTERN + 1)
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": long}}}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"type": "regex", "regex": long}, ".regex"),
        (
            {"type": "json_schema", "json_schema": {"schema": schema}},
            ".json_schema.schema.properties.a.pattern",
        ),
        ({"type": "json_schema", "json_schema": {"schema": large}}, ".json_schema.schema"),
        ({"type": "grammar", "grammar": "start: " + '"a"' * MAX_FORM}, ".grammar"),
        ({"type": "choice", "choice": ["a" * MAX_FORM, "b"]}, ".choice"),
    ]
    for form, param in cases:
        with pytest.raises(InvalidRequestError, match=f"{MAX_PATTERN}|{MAX_FORM}") as caught:
            engine.chat("Write.", response_format=form, max_tokens=4)
        assert caught.value.param == place + param
    tools = [
        {"type": "function", "function": {"name": f"f{number}", "parameters": many(5000)}}
        for number in range(6)
    ]
    request = chat_request("Write.", {"tools": tools, "tool_choice": "required"})
    with pytest.raises(InvalidRequestError, match="The schemas of tools are too large") as caught:
        grammar_of(request, engine._parts.parsers, "")
    assert caught.value.param == "tools"


def test_grammars_of_large_forms_are_not_made_on_an_event_loop(engine: Engine) -> None:
    for count, apart in ((3, False), (400, True)):
        form = {"type": "json_schema", "json_schema": {"schema": many(count)}}
        request = chat_request("Write.", {"response_format": form, "max_tokens": 4})
        stream = engine._stream(request)
        first = next(stream)
        assert isinstance(first, Mailbox) is not apart
        stream.close()


def test_formats_without_effect_are_warnings(engine: Engine) -> None:
    schema = {
        "type": "object",
        "properties": {
            "p": {"type": "string", "format": "path", "maxLength": 3},
            "d": {"type": "string", "format": "date"},
        },
        "required": ["p", "d"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    options: dict[str, Any] = {"max_tokens": 200, "seed": 1}
    reply = engine.chat("Write.", response_format=form, **options)
    assert len(json.loads(reply.text)["d"]) == 10
    assert [w for w in reply.warnings if "path" in w and "date" not in w]
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    forced = engine.chat("Write.", tools=[tool], tool_choice="required", **options)
    assert json.loads(forced.tool_calls[0].arguments)["d"][4] == "-"
    assert any("path" in warning for warning in forced.warnings)
    tool["function"]["strict"] = True  # type: ignore[index]
    strict = engine.chat("Write.", tools=[tool], max_tokens=4)
    assert any("path" in warning for warning in strict.warnings)
    tool["function"]["strict"] = False  # type: ignore[index]
    assert not engine.chat("Write.", tools=[tool], max_tokens=4).warnings
