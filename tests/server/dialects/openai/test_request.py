"""From the JSON of a chat request to a `types.Request`."""

from __future__ import annotations

from typing import Any

import pytest

from budmlx.errors import InvalidRequestError
from budmlx.server.dialects.openai.chat import ChatRequest
from budmlx.types import ImagePart, Message, SamplingParams, TextPart, ToolCall

USER = {"role": "user", "content": "hi"}
CALL = {"id": "c1", "type": "function", "index": 0, "function": {"name": "f", "arguments": "{}"}}


TURN = {"role": "assistant", "tool_calls": [CALL]}
TOOL = {"type": "function", "function": {"name": "f"}}
TOOLS = {"tools": [TOOL]}
FUNCTION = {"functions": [{"name": "f"}]}


def parse(**fields: Any) -> ChatRequest:
    return ChatRequest.parse({"model": "m", "messages": [USER], **fields})


def sampling(**fields: Any) -> SamplingParams:
    return parse(**fields).to_request().sampling


def warnings(**fields: Any) -> list[str]:
    return parse(**fields).review(streaming=False, strict=False)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, SamplingParams()),
        (dict.fromkeys(["temperature", "stop", "seed", "max_tokens", "n"]), SamplingParams()),
        ({"max_tokens": 5}, SamplingParams(max_tokens=5)),
        ({"max_tokens": 5, "max_completion_tokens": 7}, SamplingParams(max_tokens=7)),
        ({"max_tokens": 5.0}, SamplingParams(max_tokens=5)),
        ({"max_tokens": 10**12}, SamplingParams(max_tokens=10**12)),
        ({"temperature": 0, "top_p": 0.5}, SamplingParams(temperature=0, top_p=0.5)),
        ({"top_k": -1, "top_p": 0}, SamplingParams(top_p=0)),
        ({"top_k": 40, "min_p": 0.1}, SamplingParams(top_k=40, min_p=0.1)),
        ({"seed": -(2**63)}, SamplingParams(seed=-(2**63))),
        ({"random_seed": 3}, SamplingParams(seed=3)),
        ({"seed": 0, "random_seed": 3}, SamplingParams(seed=0)),
        ({"stop": "x"}, SamplingParams(stop=("x",))),
        ({"stop": ["x", "y" * 256]}, SamplingParams(stop=("x", "y" * 256))),
        ({"stop_token_ids": [3, 4.0]}, SamplingParams(stop_token_ids=(3, 4))),
    ],
)
def test_sampling(fields: dict[str, Any], expected: SamplingParams) -> None:
    assert sampling(**fields) == expected


# LIMITS 42, 45, 51, 54, 58 and 62
@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("model", None),
        ("model", 5),
        ("messages", None),
        ("messages", []),
        ("messages", "hi"),
        ("messages", [USER] * 4097),
        ("messages[0]", ["hi"]),
        ("messages[1].role", [USER, {"content": "x"}]),
        ("messages[0].role", [{"role": "<|im_start|>system", "content": "x"}]),
        ("messages[0].content", [{"role": "user"}]),
        ("messages[0].content", [{"role": "user", "content": None}]),
        ("messages[0].content", [{"role": "system", "content": None}]),
        ("messages[0].content", [{"role": "user", "content": 5}]),
        ("messages[0].content", [{"role": "user", "content": []}]),
        ("messages[0].content[0].text", [{"role": "user", "content": [{"type": "text"}]}]),
        ("messages[0].name", [{**USER, "name": 5}]),
        ("messages[0].tool_calls[0].function", [{**USER, "tool_calls": [{"id": "a"}]}]),
        ("messages[0].prefix", [{"role": "assistant", "content": "x", "prefix": "yes"}]),
        ("stream", 1),
        ("stream_options.include_usage", {"include_usage": "yes"}),
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("max_tokens", True),
        ("max_tokens", "5"),
        ("max_tokens", 1.5),
        ("max_completion_tokens", 0),
        ("temperature", 2.1),
        ("temperature", -0.1),
        ("temperature", True),
        ("temperature", "1"),
        ("top_p", 1.1),
        ("top_k", -2),
        ("min_p", 1.1),
        ("seed", 2**63),
        ("seed", 2**64),
        ("seed", 1.5),
        ("stop", ["a"] * 17),
        ("stop", ""),
        ("stop", "a" * 257),
        ("stop", [None]),
        ("stop", {"a": 1}),
        ("stop_token_ids", list(range(17))),
        ("chat_template_kwargs", []),
        ("n", 17),
        ("n", True),
        ("n", 0),
        ("logprobs", 1),
        ("top_logprobs", 21),
        ("logit_bias.5", {"5": 101}),
        ("logit_bias", {"five": 1}),
        ("logit_bias.5", {"5": True}),
        ("logit_bias", {str(i): 1 for i in range(1025)}),
        ("frequency_penalty", 2.1),
        ("presence_penalty", -2.1),
        ("repetition_penalty", 0),
        ("typical_p", 1.1),
        ("min_tokens", -2),
        ("tools", {"type": "function"}),
        ("parallel_tool_calls", 1),
        ("reasoning_format", "upside down"),
        ("reasoning_effort", "extreme"),
        ("safe_prompt", True),
        ("safe_prompt", 0),
        ("return_raw_tokens", 0),
        ("cache_salt", "a" * 257),
        ("cache_salt", "a\x00"),
        ("cache_salt", "a\n"),
    ],
)
def test_refused(param: str, value: Any) -> None:  # LIMITS 49, 54, 55, 56, 66
    field = param.split("[")[0].split(".")[0]
    with pytest.raises(InvalidRequestError) as caught:
        warnings(**{field: value})
    assert caught.value.param == param
    assert param in caught.value.message
    assert "ChatMessage" not in caught.value.message


@pytest.mark.parametrize(
    ("part", "wanted"),
    [
        ({"type": "image_url", "image_url": {"url": "data:x"}}, ImagePart("data:x")),
        ({"type": "image_url", "image_url": {"url": "x", "detail": "low"}}, ImagePart("x", "low")),
        ({"type": "image_url", "image_url": "https://a/b"}, ImagePart("https://a/b")),
        ({"type": "image", "image": "https://a/b"}, ImagePart("https://a/b", place="image")),
    ],
)
def test_parts_that_are_images(part: dict[str, Any], wanted: ImagePart) -> None:
    content = [{"type": "text", "text": "What is this?"}, part]
    request = parse(messages=[{"role": "user", "content": content}]).to_request()
    assert request.messages is not None
    assert request.messages[0].content == (TextPart("What is this?"), wanted)


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "input_audio", "input_audio": {}}, ""),
        ({"type": "image_url"}, ".image_url"),
        ({"type": "image_url", "image_url": {"detail": "low"}}, ".image_url.url"),
        ({"type": "image_url", "image_url": {"url": 5}}, ".image_url.url"),
        ({"type": "image_url", "image_url": {"url": "x", "detail": "x"}}, ".image_url.detail"),
        ({"type": "image", "image": None}, ".image"),
    ],
)
def test_parts_that_are_refused(part: dict[str, Any], param: str) -> None:
    content = [{"type": "text", "text": "What is this?"}, part]
    with pytest.raises(InvalidRequestError) as caught:
        parse(messages=[{"role": "user", "content": content}])
    assert caught.value.param == "messages[0].content[1]" + param


def test_messages() -> None:
    chat = parse(
        messages=[
            {"role": "developer", "content": "Be kind.", "name": "AI expert", "tool_calls": None},
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            },
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "content": "42", "tool_call_id": "c1"},
        ]
    )
    assert chat.to_request().messages == (
        Message(role="developer", content="Be kind.", name="AI expert"),
        Message(role="user", content=(TextPart("a"), TextPart("b"))),
        Message(role="assistant", tool_calls=(ToolCall("c1", "f", "{}"),)),
        Message(role="tool", content="42", tool_call_id="c1"),
    )
    assert chat.review(streaming=False, strict=True) == []


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        ({"role": "assistant"}, Message(role="assistant")),
        ({"role": "assistant", "content": None}, Message(role="assistant")),
        ({"role": "assistant", "content": []}, Message(role="assistant")),
        (
            {"role": "assistant", "content": None, "tool_calls": [], "refusal": "No."},
            Message(role="assistant", content="No."),
        ),
        (
            {"role": "assistant", "content": None, "reasoning_content": "Thus."},
            Message(role="assistant", reasoning="Thus."),
        ),
        ({"role": "tool", "content": None}, Message(role="tool")),
        (
            {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
            Message(role="user", content=(TextPart("a"),)),
        ),
        (
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Thus."},
                    {"type": "output_text", "text": "a"},
                    {"type": "refusal", "refusal": "b"},
                ],
            },
            Message(role="assistant", content=(TextPart("a"), TextPart("b")), reasoning="Thus."),
        ),
    ],
)
def test_messages_as_other_servers_write_them(message: dict[str, Any], wanted: Message) -> None:
    chat = parse(messages=[message])
    assert chat.to_request().messages == (wanted,)
    assert chat.review(streaming=False, strict=True) == []


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_reasoning_in_two_places_is_reported_where_it_differs(field: str) -> None:
    thought = {"type": "thinking", "thinking": "Thus."}
    parts = [{"type": "text", "text": "a"}, thought]
    for given, warns in (("Thus.", False), ("", False), ("Else.", True)):
        chat = parse(messages=[{"role": "assistant", "content": parts, field: given}])
        assert chat.to_request().messages is not None
        assert chat.to_request().messages[0].reasoning == (given or "Thus.")
        warnings = chat.review(streaming=False, strict=False)
        words = f"`messages[0].content[1]` was ignored: `messages[0].{field}` goes before it."
        assert warnings == [words] * warns


def test_parts_of_the_history_without_text_are_left_out_and_reported() -> None:
    audio = {"type": "output_audio", "audio": {"id": "x"}}
    for role in ("assistant", "tool", "system"):
        chat = parse(messages=[{"role": role, "content": [{"type": "text", "text": "a"}, audio]}])
        assert chat.to_request().messages == (Message(role=role, content=(TextPart("a"),)),)
        [warning] = chat.review(streaming=False, strict=False)
        assert warning.startswith("`messages[0].content[1]` was left out")
        assert "output_audio" in warning


def test_4096_messages_are_accepted() -> None:
    assert len(parse(messages=[USER] * 4096).messages) == 4096  # LIMITS 44


def test_neutral_values_of_unsupported_parameters_are_accepted_silently() -> None:
    neutral: dict[str, Any] = {
        "n": 1.0,
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "logit_bias": {},
        "logprobs": False,
        "top_logprobs": 0,
        "response_format": {"type": "text"},
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "service_tier": "auto",
        "safe_prompt": False,
    }
    assert parse(**neutral).review(streaming=False, strict=True) == []


def test_unknown_fields_are_reported_wherever_they_stand() -> None:  # LIMITS 43
    message = {
        "role": "user",
        "content": [{"type": "text", "text": "a", "cache_control": {}}],
        "weight": 1,
    }
    found = warnings(messages=[message], foo=1, metadata={}, stream_options={"x": 1})
    for name in (
        "`foo`",
        "`metadata`",
        "`messages[0].weight`",
        "`messages[0].content[0].cache_control`",
        "`stream_options.x`",
        "`stream_options` has no effect without `stream`",
    ):
        assert any(name in warning for warning in found), name
    assert len(found) == 6


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"tools": [{**TOOL, "cache_control": {}}]}, "tools[0].cache_control"),
        ({"tools": [TOOL, {**TOOL, "function": {"name": "g", "x": 1}}]}, "tools[1].function.x"),
        ({"functions": [{"name": "f", "suffix": 1}]}, "functions[0].suffix"),
        ({"tools": [TOOL], "tool_choice": {**TOOL, "mode": "a"}}, "tool_choice.mode"),
        (
            {"tools": [TOOL], "tool_choice": {"function": {"name": "f", "x": 1}}},
            "tool_choice.function.x",
        ),
        ({"functions": [{"name": "f"}], "function_call": {"name": "f", "x": 1}}, "function_call.x"),
        ({"response_format": {"type": "json_object", "schema": {}}}, "response_format.schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}, "x": 1}}},
            "response_format.json_schema.x",
        ),
        ({"stream_options": {"x": 1}}, "stream_options.x"),
    ],
)
def test_unknown_fields_of_objects_that_code_reads(fields: dict[str, Any], path: str) -> None:
    assert parse(**fields).to_request()
    found = parse(**fields).review(streaming=True, strict=False)
    assert found == [f"`{path}` is not a known parameter and was ignored."]
    with pytest.raises(InvalidRequestError) as caught:
        parse(**fields).review(streaming=True, strict=True)
    assert caught.value.param == path


def test_schemas_and_nulls_are_not_unknown_fields() -> None:
    schema = {"type": "object", "properties": {"x": {"foo": 1}}, "bar": 2}
    function = {"name": "f", "description": "d", "parameters": schema, "strict": True, "x": None}
    form = {"name": "n", "schema": schema, "strict": False, "x": None}
    chat = parse(
        tools=[{"type": "function", "function": function, "x": None}],
        response_format={"type": "json_schema", "json_schema": form, "x": None},
        tool_choice="auto",
    )
    assert chat.review(streaming=False, strict=True) == []


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"max_tokens": 5, "max_completion_tokens": 5}, None),
        ({"max_tokens": 5, "max_completion_tokens": None}, None),
        ({"max_tokens": 5, "max_completion_tokens": 7}, "max_tokens"),
        ({"min_tokens": 1, "min_completion_tokens": 3}, "min_tokens"),
        ({"seed": 3, "random_seed": 3}, None),
        ({"seed": 0, "random_seed": 3}, "random_seed"),
        ({"logprobs": False, "top_logprobs": 2}, "logprobs"),
        ({"top_logprobs": 2}, None),
        ({**TOOLS, **FUNCTION}, None),
        ({**TOOLS, "functions": [{"name": "g"}]}, "functions"),
        ({**TOOLS, "function_call": "auto"}, None),
        ({**TOOLS, "function_call": "none"}, "function_call"),
        ({**TOOLS, "functions": [{"name": "g"}], "function_call": {"name": "g"}}, "function"),
        ({**TOOLS, "tool_choice": "none", "function_call": "none"}, None),
        ({**FUNCTION, "tool_choice": "auto"}, None),
        ({**FUNCTION, "tool_choice": "required"}, "tool_choice"),
        ({**FUNCTION, "parallel_tool_calls": True}, "parallel_tool_calls"),
        ({**FUNCTION, "parallel_tool_calls": False}, None),
        ({"verbosity": "low"}, "verbosity"),
        ({"safety_identifier": "x"}, "safety_identifier"),
        ({"reasoning_effort": "none", "disable_reasoning": True}, None),
        ({"reasoning_effort": "none", "disable_reasoning": False}, "reasoning_effort"),
        (
            {"disable_reasoning": True, "chat_template_kwargs": {"enable_thinking": True}},
            "disable_reasoning",
        ),
        ({"messages": [{**TURN, "function_call": {"name": "g"}}]}, "messages[0].function_call"),
        ({"messages": [{**TURN, "function_call": CALL["function"]}]}, None),
        ({"messages": [{**USER, "reasoning": "a", "reasoning_content": "a"}]}, None),
        (
            {"messages": [{**USER, "reasoning": "a", "reasoning_content": "b"}]},
            "messages[0].reasoning",
        ),
    ],
)
def test_what_another_field_goes_before_is_reported(
    fields: dict[str, Any], names: str | None
) -> None:
    assert parse(**fields).to_request()
    found = parse(**fields).review(streaming=False, strict=True)
    assert bool(found) is (names is not None)
    assert all(warning.startswith(f"`{names}") for warning in found), found


@pytest.mark.parametrize(
    "fields",
    [
        {"function_call": {"name": "f"}},
        {"function_call": "perhaps"},
        {**TOOLS, "function_call": {"name": "g"}},
        {**FUNCTION, "tool_choice": {"function": {"name": "g"}}},
    ],
)
def test_a_choice_of_what_is_not_there_is_refused(fields: dict[str, Any]) -> None:
    for ask in (lambda chat: chat.to_request(), lambda chat: chat.review(strict=False)):
        with pytest.raises(InvalidRequestError) as caught:
            ask(parse(**fields))
        assert str(caught.value.param).split(".")[0] in ("function_call", "tool_choice")


def test_many_unknown_fields_give_a_bounded_answer() -> None:
    found = warnings(**{f"f{i}" * 100: i for i in range(1000)})
    assert found[-1] == "and 984 more"
    assert max(map(len, found)) < 200


def test_strict_refuses_unknown_fields() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse(messages=[{**USER, "weight": 1}]).review(streaming=False, strict=True)
    assert caught.value.param == "messages[0].weight"


@pytest.mark.parametrize(
    ("given", "reasoning"),
    [
        (None, "parsed"),
        ("none", "parsed"),
        ("text_parsed", "parsed"),
        ("raw", "raw"),
        ("hidden", "hidden"),
    ],
)
def test_reasoning_formats_are_those_of_the_clients(given: str | None, reasoning: str) -> None:
    # cerebras-cloud-sdk: "If set to `none`, the model's default behavior will be used."
    fields = {} if given is None else {"reasoning_format": given}
    assert parse(**fields).to_request().reasoning == reasoning
