"""Replies in a form that the request demands: always valid, whatever the model says."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Any, Literal

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError
from pydantic_core import from_json

from budmlx import Engine
from budmlx.errors import InvalidRequestError
from budmlx.types import Completion
from tests.amount import examples, usually
from tests.models import tiny_model_dir

VENDORED = files("check_jsonschema") / "builtin_schemas" / "vendor"
LIMIT = 120  # tokens of a document


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load(tiny_model_dir(scale=2.0), max_rows=128) as loaded:
        yield loaded


def wrapped(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


def ask(engine: Engine, schema: Any, **sampling: Any) -> Completion:
    options = {"temperature": 1.5, "max_tokens": 400, "seed": 1, **sampling}
    return engine.chat("Write.", response_format=wrapped(schema), **options)


def answers(engine: Engine, schemas: list[Any], **sampling: Any) -> list[Completion | Exception]:
    """Replies to all schemas at once."""

    async def all_of_them() -> list[Any]:
        options = {"temperature": 1.5, "max_tokens": LIMIT, **sampling}
        return await asyncio.gather(
            *(
                engine.achat("Write.", response_format=wrapped(schema), seed=seed, **options)
                for seed, schema in enumerate(schemas)
            ),
            return_exceptions=True,
        )

    return asyncio.run(all_of_them())


def real_schemas() -> list[dict[str, Any]]:
    """The definitions in schemas that real tools are configured by."""
    found = []
    for file in sorted(VENDORED.iterdir(), key=lambda file: file.name):
        if not file.name.endswith(".json"):
            continue
        text = file.read_text("utf-8")
        if len(text) > 130_000:
            continue
        whole = json.loads(text)
        for word in ("definitions", "$defs"):
            for name in whole.get(word, {}):
                found.append({"$ref": f"#/{word}/{name}", word: whole[word]})
    return found


@pytest.mark.parametrize(
    "step",
    [8, pytest.param(2, marks=pytest.mark.long), pytest.param(1, marks=pytest.mark.soak)],
)
def test_documents_of_real_schemas_are_valid(engine: Engine, step: int) -> None:
    schemas = real_schemas()[::step]
    replies = answers(engine, schemas)
    finished = cut = refused = 0
    for schema, reply in zip(schemas, replies, strict=True):
        if isinstance(reply, Exception):
            assert isinstance(reply, InvalidRequestError), reply
            assert reply.param == "response_format.json_schema.schema"
            refused += 1
        elif reply.finish_reason == "stop":
            jsonschema.validate(json.loads(reply.text), schema)
            finished += 1
        else:
            assert reply.finish_reason == "length" and reply.usage.completion_tokens == LIMIT
            from_json(reply.text, allow_partial="trailing-strings")
            cut += 1
    print(f"{finished} finished, {cut} cut by length, {refused} refused, of {len(schemas)}")
    assert finished >= len(schemas) // 3 and len(schemas) >= 400 // step


scalars = st.sampled_from(
    [
        {"type": "boolean"},
        {"type": "null"},
        {"type": "integer", "minimum": -5, "maximum": 120},
        {"type": "string", "maxLength": 5},
        {"type": "string", "pattern": "^[a-c]{2}-[0-9]{1,3}$"},
        {"enum": ["red", 4, None, {"a": [1]}]},
        {"const": "ok"},
    ]
)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    objects = st.dictionaries(st.text('abé"\\\n 日', max_size=4), inner, max_size=3).flatmap(
        lambda properties: st.builds(
            lambda required: {
                "type": "object",
                "properties": properties,
                "required": sorted(required),
                "additionalProperties": False,
            },
            st.sets(st.sampled_from(sorted(properties))) if properties else st.just(set()),
        )
    )
    arrays = st.builds(
        lambda items, least: {"type": "array", "items": items, "minItems": least, "maxItems": 2},
        inner,
        st.integers(0, 2),
    )
    either = st.lists(inner, min_size=1, max_size=3).map(lambda options: {"anyOf": options})
    return objects | arrays | either


@settings(max_examples=examples(10), deadline=None)
@given(schemas=st.lists(st.recursive(scalars, containers, max_leaves=5), min_size=4, max_size=8))
def test_bounded_documents_finish_and_are_valid(engine: Engine, schemas: list[Any]) -> None:
    for schema, reply in zip(schemas, answers(engine, schemas, max_tokens=4000), strict=True):
        assert isinstance(reply, Completion), (schema, reply)
        assert reply.finish_reason == "stop", schema
        jsonschema.validate(json.loads(reply.text), schema)


def bounded_schema(chance: random.Random, depth: int = 2) -> dict[str, Any]:
    """A random schema whose documents all end."""
    kind = chance.choice(["enum", "integer", "string", "array", "object"][: 3 + 2 * (depth > 0)])
    if kind == "enum":
        return {"enum": chance.sample(["red", "grün", 5, None, True, "two words"], 3)}
    if kind == "integer":
        return {"type": "integer", "minimum": -20, "maximum": chance.randint(0, 500)}
    if kind == "string":
        return {"type": "string", "maxLength": chance.randint(0, 6)}
    if kind == "array":
        items = bounded_schema(chance, depth - 1)
        return {"type": "array", "items": items, "maxItems": chance.randint(0, 2)}
    names = chance.sample(["name", "age", "größe", "x"], chance.randint(1, 3))
    return {
        "type": "object",
        "properties": {name: bounded_schema(chance, depth - 1) for name in names},
        "required": names[:2],
        "additionalProperties": False,
    }


@pytest.mark.parametrize("count", [100, pytest.param(500, marks=pytest.mark.long)])
def test_replies_to_bounded_schemas_beside_free_text(engine: Engine, count: int) -> None:
    free: dict[str, Any] = {"temperature": 1.0, "max_tokens": 40}
    alone = [engine.chat(f"Text {i}", seed=i, **free).text for i in range(8)]
    chance = random.Random(7)
    schemas = [bounded_schema(chance) for _ in range(count)]

    async def all_of_them() -> tuple[list[Completion], list[Completion]]:
        texts = asyncio.gather(
            *(engine.achat(f"Text {i}", seed=i, **free) for i in range(len(alone)))
        )
        replies = asyncio.gather(
            *(
                engine.achat(
                    "Write.",
                    response_format=wrapped(schema),
                    temperature=1.5,
                    seed=seed,
                    max_tokens=4000,
                )
                for seed, schema in enumerate(schemas)
            )
        )
        return await replies, await texts

    replies, texts = asyncio.run(all_of_them())
    for schema, reply in zip(schemas, replies, strict=True):
        assert reply.finish_reason == "stop", schema
        jsonschema.validate(json.loads(reply.text), schema)
    assert [reply.text for reply in texts] == alone


class Pet(BaseModel):
    kind: Literal["cat", "dog"]
    age: int = Field(ge=0, le=30)
    tags: list[bool] = Field(max_length=2)


@pytest.mark.parametrize("host", usually("thread".__eq__, ["thread", "process"]))
def test_a_class_comes_back_as_an_object(host: str) -> None:
    with Engine.load(tiny_model_dir(scale=2.0), engine_host=host) as engine:
        reply = engine.chat("A pet.", response_format=Pet, temperature=1.5, seed=3, max_tokens=300)
        assert reply.finish_reason == "stop"
        assert isinstance(reply.parsed, Pet)
        cut = engine.chat("A pet.", response_format=Pet, temperature=1.5, seed=3, max_tokens=4)
        assert cut.finish_reason == "length" and cut.parsed is None
        with pytest.raises(ValidationError):
            Pet.model_validate_json(cut.text)


def test_the_other_forms(engine: Engine) -> None:
    def text(**form: Any) -> str:
        reply = engine.chat("x", response_format=form, temperature=1.5, seed=5, max_tokens=300)
        assert reply.finish_reason == "stop"
        return reply.text

    assert re.fullmatch("[0-9]{2}/[a-z]\n?", text(type="regex", regex="[0-9]{2}/[a-z]\n?"))
    assert text(type="choice", choice=['say "yes"', "no/äh\n"]) in ('say "yes"', "no/äh\n")
    grammar = 'start: item ("," item){1,3}\nitem: /[a-f]/ "=" /[0-9]/'
    assert re.fullmatch(r"[a-f]=\d(,[a-f]=\d){1,3}", text(type="grammar", grammar=grammar))


def test_choices_logprobs_stop_and_streams(engine: Engine) -> None:
    options: dict[str, Any] = {"temperature": 1.5, "seed": 4, "max_tokens": 300}
    reply = engine.chat("x", response_format=Pet, n=3, logprobs=2, **options)
    for choice in reply.choices:
        Pet.model_validate_json(choice.text)
        assert "".join(entry.text for entry in choice.logprobs) == choice.text
    assert len({choice.text for choice in reply.choices}) > 1
    alone = engine.chat("x", response_format=Pet, **options)
    assert alone.text == reply.text
    events = list(engine.stream("x", response_format=Pet, **options))
    assert "".join(getattr(event, "text", "") for event in events) == alone.text
    stopped = engine.chat("x", response_format=Pet, stop=['"age"'], **options)
    assert stopped.finish_reason == "stop" and '"age"' not in stopped.text


# LIMITS 70, 73
@pytest.mark.parametrize(
    ("schema", "param"),
    [
        ({"type": "notatype"}, ""),
        ({"properties": {"a": {"pattern": "foo**"}}}, ".properties.a.pattern"),
        ({"type": "string", "pattern": "(?<=a)b"}, ""),
        ({"not": {"type": "string"}}, ""),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, ""),
        ({"$ref": "#"}, ""),
        ({"$ref": "file:///etc/passwd"}, ""),
        (False, ""),
    ],
)
def test_what_cannot_be_enforced_is_refused(engine: Engine, schema: Any, param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        ask(engine, schema)
    assert caught.value.param == f"response_format.json_schema.schema{param}"


def test_callers_cannot_switch_the_checks_off(engine: Engine) -> None:
    with pytest.raises(InvalidRequestError):
        ask(engine, {"x-guidance": {"lenient": True}, "not": {"type": "string"}})


def test_a_form_does_not_go_with_ignore_eos(engine: Engine) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        ask(engine, {"type": "integer"}, ignore_eos=True)
    assert caught.value.param == "ignore_eos"
