"""Each format keeps the contract of parsers, and is found and forced by a running engine."""

from __future__ import annotations

import json
import time

import pytest
from budmlx_tools_extras import FORMS, Form, provide_tool_parser

from budmlx.plugins.parsing import Call, ModelTraits, Tool
from budmlx.testing import check_tool_parser

TOOL = Tool(
    "add",
    parameters={
        "type": "object",
        "properties": {"a": {"enum": [1, 2]}},
        "required": ["a"],
        "additionalProperties": False,
    },
)
CALL = Call("add", '{"a": 1}')
each = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)


def written(form: Form, count: int = 1) -> str:
    call = f'{{"name": "add", "{form.arguments}": {{"a": 1}}}}'
    body = f"[{', '.join([call] * count)}]" if form.listed else call
    return form.begin + body.removeprefix(form.opening) + form.end


@each
def test_contract(form: Form) -> None:
    spec = form.spec()
    check_tool_parser(spec, written(form), CALL, tools=[TOOL])
    check_tool_parser(spec, f"I add. {written(form)}", CALL, content="I add. ", tools=[TOOL])
    if form.listed:
        check_tool_parser(spec, written(form, 2), CALL, CALL, tools=[TOOL])


@each
@pytest.mark.parametrize("body", ["", "{", "[1]", "[]", '{"name": 5}', "[" * 5000, "x</"])
def test_broken_calls_are_text(form: Form, body: str) -> None:
    for text in (form.begin + body + form.end, form.begin + body, form.begin[:-1]):
        check_tool_parser(form.spec(), text, content=text)


@each
def test_long_text_takes_linear_time(form: Form) -> None:
    for text in (form.begin * 20_000, form.begin + "[{" * 100_000, form.begin[:-1] * 20_000):
        parser = form.spec().make([TOOL], False)
        begin = time.process_time()
        size = 0
        for place in range(0, len(text), 4):
            size += sum(len(piece.text) for piece in parser.push(text[place : place + 4], False))
        size += sum(len(piece.text) for piece in parser.push("", True))
        assert size == len(text)
        assert time.process_time() - begin < 10  # quadratic work would take minutes


@each
def test_found_by_template_and_by_name(form: Form) -> None:
    assert provide_tool_parser("auto", ModelTraits("x", f"... {form.begin} ...")).name == form.name
    assert provide_tool_parser(form.name, ModelTraits("x", "")).name == form.name
    assert provide_tool_parser("auto", ModelTraits("x", "nothing")) is None


@each
def test_an_engine_forces_valid_calls(form: Form, open_engine) -> None:
    engine = open_engine(plugins=["budmlx_tools_extras"], tool_parser=form.name)
    for parallel in (False, True):
        reply = engine.chat(
            "Add.",
            tools=[TOOL],
            tool_choice="required",
            parallel_tool_calls=parallel,
            temperature=1.0,
            seed=2,
            max_tokens=900,
        )
        if reply.finish_reason == "length":
            continue  # many calls; what is cut off is text
        assert reply.finish_reason == "tool_calls", reply
        assert all(json.loads(call.arguments)["a"] in (1, 2) for call in reply.tool_calls)
