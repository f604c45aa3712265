"""Rows for the core: what of the parameters is resolved, and what crosses as it was asked."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from budmlx import Engine
from budmlx.engine.prompt import TokenizedPrompt
from budmlx.engine.request.python_api import chat_request, prompt_request
from budmlx.engine.run.rows import UNLIMITED, core_requests
from budmlx.errors import InvalidRequestError
from budmlx.protocol import GenerateRequest, Grammar
from budmlx.types import PluginChoice, Request, SamplingParams
from tests.parameters import all_given

EOS = [2, 9]
RESOLVED = {"seed", "max_tokens", "min_tokens", "stop", "stop_token_ids", "ignore_eos"} | {
    "sampler",
    "logits_processors",
    "max_reasoning_tokens",
}


def row(**params: Any) -> GenerateRequest:
    request = Request(prompt="", sampling=SamplingParams(**params))
    (made,) = core_requests([1], TokenizedPrompt([3, 4]), request, EOS)
    return made


def test_what_the_engine_leaves_open_is_resolved() -> None:
    made = row()
    assert (made.max_tokens, made.min_tokens, made.stop_ids) == (UNLIMITED, 0, EOS)
    assert row().seed != made.seed
    made = row(max_tokens=7, min_tokens=5, stop_token_ids=(5, 2), seed=11)
    assert (made.max_tokens, made.min_tokens, made.stop_ids, made.seed) == (7, 5, [2, 5, 9], 11)
    assert row(min_tokens=-1).min_tokens == UNLIMITED
    assert row(stop_token_ids=(5,), ignore_eos=True).stop_ids == [5]


def test_all_other_parameters_cross_as_they_are() -> None:
    asked = all_given(sampler=PluginChoice("a", {"b": object()}))
    made = row(**asked)
    crossing = {name: value for name, value in asked.items() if name not in RESOLVED}
    assert made.sampling == SamplingParams(**crossing)
    # What stays behind need not be encodable.
    decoded = msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=GenerateRequest)
    assert decoded == made


def test_choices_differ_by_id_and_choice_alone() -> None:
    first, second = core_requests([7, 8], TokenizedPrompt([3]), Request(prompt="", n=2), EOS)
    assert (first.id, first.choice, first.fork) == (7, 0, 7)
    assert second == msgspec.structs.replace(first, id=8, choice=1)


def test_a_form_must_be_able_to_end() -> None:
    request = Request(prompt="", sampling=SamplingParams(ignore_eos=True))
    with pytest.raises(InvalidRequestError) as caught:
        core_requests([1], TokenizedPrompt([3]), request, EOS, Grammar(source="", param="x"))
    assert caught.value.param == "ignore_eos"


TOOL = {"name": "f", "strict": True, "parameters": {"type": "object", "properties": {}}}


def test_what_has_no_effect_is_told() -> None:
    # Calls of this format can be constrained only where they are forced.
    with Engine.load(tool_parser="harmony") as engine:

        def told(**options: Any) -> list[str]:
            return engine.warnings(chat_request("Hi", {"tools": [TOOL], **options}))

        assert [warning[:20] for warning in told()] == ["strict has no effect"]
        for options in (
            {"tool_choice": "required"},
            {"tool_choice": "none"},
            {"response_format": {"type": "json_object"}},
        ):
            assert told(**options) == []
        raw = prompt_request("Hi", {"tools": [TOOL], "chat_template_kwargs": {"thinking": True}})
        assert engine.warnings(raw) == [
            "tools has no effect on raw text.",
            "thinking has no effect on raw text.",
        ]


def test_the_form_of_texts_without_quotes_is_not_enforced() -> None:
    kinds = {
        "a": {"type": "string", "pattern": "x+"},
        "b": {"enum": ["x"], "minLength": 1},
        "c": {"type": "string"},
        "d": True,
    }
    loose = {"name": "f", "parameters": {"type": "object", "properties": kinds}}
    tools = [{**loose, "strict": True}, {**loose, "name": "g"}, {**TOOL, "name": "h"}]
    for parser, told in (("qwen3-coder", True), ("hermes", False)):
        with Engine.load(tool_parser=parser) as engine:
            found = engine.warnings(chat_request("Hi", {"tools": tools}))
            assert bool(found) == told and (not told or found[0].endswith(": f.a."))
            forced = chat_request("Hi", {"tools": tools, "tool_choice": "required"})
            assert not told or engine.warnings(forced)[0].endswith(": f.a, g.a.")
