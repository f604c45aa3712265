"""Messages on the wire become messages of ours: every form that clients were seen to send."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from budmlx.errors import InvalidRequestError
from budmlx.server.dialects.anthropic.body import ConversationBody, MessagesRequest
from budmlx.server.dialects.anthropic.history import History
from budmlx.server.sealed import Sealer
from budmlx.types import ImagePart, Message, Request, TextPart, ToolChoice
from tests.server.dialects.anthropic.captures import bodies

RESULT = {"type": "tool_result", "tool_use_id": "a"}
CALL = {"type": "tool_use", "id": "a", "name": "f", "input": {"x": "é", "b": [1, None]}}
PDF = {"type": "base64", "media_type": "application/pdf", "data": "JVBE"}
PNG = {"type": "base64", "media_type": "image/png", "data": "iVBO"}


@pytest.fixture
def sealer(tmp_path: Path) -> Sealer:
    return Sealer(tmp_path / "key")


def read(sealer: Sealer, *messages: Any, **fields: Any) -> tuple[Request, History]:
    body = {"model": "m", "messages": list(messages), **fields}
    return ConversationBody.parse(body).read(sealer)


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def text(said: str, **fields: Any) -> dict[str, Any]:
    return {"type": "text", "text": said, **fields}


def called(sealer: Sealer, *results: Any, **fields: Any) -> tuple[list[Message], History]:
    """The messages after a call."""
    request, history = read(sealer, user(text("Go")), assistant(CALL), user(*results), **fields)
    assert request.messages is not None
    return list(request.messages[2:]), history


def test_text_has_one_form_whatever_the_client_chose(sealer: Sealer) -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    forms = ({"role": "user", "content": "Hi"}, user(text("Hi")), user(text("Hi", **mark)))
    for form in forms:
        assert read(sealer, form)[0].messages == (Message(role="user", content="Hi"),)
    [message] = read(sealer, user(text("a"), text("b")))[0].messages or ()
    assert message.content == (TextPart("a"), TextPart("b"))


def test_instructions_lose_the_lines_that_are_for_the_service(sealer: Sealer) -> None:
    header = "x-anthropic-billing-header: cc_version=2.1.332.abc; cc_entrypoint=cli;"
    for system in (
        [text(header), text("One"), text("Two")],
        f"{header}\nOne\n\nTwo",
        [text("One"), text("Two")],
    ):
        request, _ = read(sealer, user(text("Hi")), system=system)
        assert request.messages is not None
        assert request.messages[0] == Message(role="system", content="One\n\nTwo")
    # A message of nothing else is none.
    for later in (header, [text(header)]):
        turns = (user(text(header)), {"role": "system", "content": later})
        request, history = read(sealer, *turns, system=[text(header)])
        assert request.messages == (Message(role="user", content=header),)
        assert not history.warnings


def test_instructions_in_the_middle_stay_there(sealer: Sealer) -> None:
    for content in ("Be brief.", [text("Be"), text("brief.")]):
        message = {"role": "system", "content": content, "output_config": {"effort": "low"}}
        request, _ = read(sealer, user(text("Hi")), message, assistant(text("Ho")), message)
        assert request.messages is not None
        assert [each.role for each in request.messages] == [
            "user", "system", "assistant", "system",
        ]  # fmt: skip
        assert request.chat_template_kwargs == {"reasoning_effort": "low"}


def test_instructions_are_text(sealer: Sealer) -> None:
    message = {"role": "system", "content": [{"type": "image", "source": PNG}, text("Be brief.")]}
    request, history = read(sealer, user(text("Hi")), message)
    assert request.messages is not None and request.messages[1].content == "Be brief."
    assert history.warnings == ["messages[1].content[0] was left out: it is of the type image."]


def test_calls_and_their_results_in_the_order_given(sealer: Sealer) -> None:
    other = {**CALL, "id": "b", "input": {}}
    results = [
        {"type": "tool_result", "tool_use_id": "b", "content": "second"},
        text("And now?"),
        {**RESULT, "content": [text("first"), text("line")]},
    ]
    request, _ = read(
        sealer, user(text("Go")), assistant(text("I "), text("go."), CALL, other), user(*results)
    )
    assert request.messages is not None
    _, calling, *after = request.messages
    assert calling.content == "I go."
    assert [(call.id, call.name, call.arguments) for call in calling.tool_calls] == [
        ("a", "f", '{"x": "é", "b": [1, null]}'),
        ("b", "f", "{}"),
    ]
    assert after == [
        Message(role="tool", content="second", tool_call_id="b"),
        Message(role="tool", content="first\nline", tool_call_id="a"),
        Message(role="user", content="And now?"),
    ]


def test_results_that_are_empty_or_errors(sealer: Sealer) -> None:
    for content, is_error, expected in (
        ("", False, ""),
        (None, False, ""),
        ([], False, ()),
        ("no", True, "Error: no"),
        ([text("no"), text("no")], True, "Error: no\nno"),
    ):
        [found], _ = called(sealer, {**RESULT, "content": content, "is_error": is_error})
        assert found.content == expected


def test_an_input_that_was_cut_comes_back_as_it_was(sealer: Sealer) -> None:
    cut = {**CALL, "input": {"__unparsedToolInput": {"raw": '{"cmd": "ec', "len": 11}}}
    request, _ = read(sealer, user(text("Go")), assistant(cut), user(RESULT))
    assert request.messages is not None
    assert request.messages[1].tool_calls[0].arguments == '{"cmd": "ec'


def test_reasoning_comes_back_with_its_signature(sealer: Sealer) -> None:
    signature = sealer.seal("Hm.\n")
    for block, expected in (
        ({"thinking": "Hm.\n", "signature": signature}, "Hm.\n"),
        ({"thinking": "", "signature": signature}, "Hm.\n"),
        ({"thinking": "Hm.", "signature": "c2ln"}, "Hm."),
        ({"thinking": "Hm."}, "Hm."),
        ({"thinking": "", "signature": "bmlx1_AAAA"}, None),
    ):
        said = assistant({"type": "thinking", **block}, text("Ho"), {"type": "redacted_thinking"})
        request, history = read(sealer, user(text("Hi")), said, user(text("Go on")))
        assert request.messages is not None
        assert request.messages[1].reasoning == expected
        [warning] = history.warnings
        assert warning.startswith("messages[1].content[2] was left out")


def test_pictures(sealer: Sealer) -> None:
    block = {"type": "image", "source": PNG}
    [message] = read(sealer, user(block, text("What?")))[0].messages or ()
    picture = ImagePart("data:image/png;base64,iVBO", place="source")
    assert message.content == (picture, TextPart("What?"))
    [found], history = called(sealer, {**RESULT, "content": [text("Seen"), block]})
    shown = ImagePart(picture.source, place="source", instead="[image omitted]")
    assert found.content == (TextPart("Seen"), shown)
    where = history.in_request("messages[2].content[1].source is broken")
    assert where == "messages[2].content[0].content[1].source is broken"
    url = {"type": "image", "source": {"type": "url", "url": "https://a/b.png"}}
    [message] = read(sealer, user(url))[0].messages or ()
    assert message.content == (ImagePart("https://a/b.png", place="source"),)


def test_documents(sealer: Sealer) -> None:
    for source in (
        {"type": "text", "media_type": "text/plain", "data": "Words"},
        {"type": "content", "content": "Words"},
        {"type": "content", "content": [text("Words")]},
    ):
        block = {"type": "document", "source": source, "title": "T"}
        [message] = read(sealer, user(block))[0].messages or ()
        assert message.content == "T\n\nWords"
    source = {"type": "content", "content": [{"type": "image", "source": PNG}, text("Words")]}
    request, history = read(sealer, user({"type": "document", "source": source}))
    assert request.messages == (Message(role="user", content="Words"),)
    assert history.warnings == [
        "messages[0].content[0].source.content holds what is not text, which was left out."
    ]
    found = {"type": "search_result", "source": "s", "title": "T", "content": [text("Words")]}
    [message] = read(sealer, user(found))[0].messages or ()
    assert message.content == "T\n\ns\n\nWords"
    pdf = {"type": "document", "source": PDF}
    with pytest.raises(InvalidRequestError, match=r"messages\[0\].content\[1\].source"):
        read(sealer, user(text("Read"), pdf))
    [result], history = called(sealer, {**RESULT, "content": [text("Read"), pdf]})
    assert result.content == "Read\n[PDF omitted]"
    assert len(history.warnings) == 1


def test_deferred_tools_appear_where_they_were_found(sealer: Sealer) -> None:
    schema = {"type": "object", "properties": {"q": {"type": "string"}}}
    tools = [
        {"name": "f", "input_schema": schema},
        {"name": "g", "input_schema": schema, "description": "G", "defer_loading": True},
        {"name": "h", "input_schema": schema, "defer_loading": True},
    ]
    request, _ = read(sealer, user(text("Go")), tools=tools)
    assert [(tool.name, tool.deferred) for tool in request.tools] == [("f", False)]
    found = {**RESULT, "content": [{"type": "tool_reference", "tool_name": "g"}]}
    request, _ = read(sealer, user(text("Go")), assistant(CALL), user(found), tools=tools)
    assert [(tool.name, tool.deferred) for tool in request.tools] == [("f", False), ("g", True)]
    assert request.messages is not None
    definition = json.loads(request.messages[2].text)
    assert definition["function"] == {"name": "g", "description": "G", "parameters": schema}


@pytest.mark.parametrize("kind", ["any", "tool"])
@pytest.mark.parametrize("others", [(), ("f",)])
def test_no_other_tool_is_forced_than_the_one_named(
    sealer: Sealer, kind: str, others: tuple[str, ...]
) -> None:
    search = {"type": "web_search_20250305", "name": "web_search"}
    tools = [search, *({"name": name, "input_schema": {"type": "object"}} for name in others)]
    choice = {"type": kind, **({"name": "web_search"} if kind == "tool" else {})}
    request, history = read(sealer, user(text("Go")), tools=tools, tool_choice=choice)
    free = kind == "tool" or not others
    assert request.tool_choice == ToolChoice("auto" if free else "required")
    assert any("tool_choice has no effect" in each for each in history.warnings) is free


def test_the_last_reply_is_continued(sealer: Sealer) -> None:
    for content, expected in (("I", True), ([text("I")], True), ([CALL], False)):
        said = {"role": "assistant", "content": content}
        request, _ = read(sealer, user(text("Hi")), said)
        assert request.messages is not None and request.messages[-1].prefix is expected


@pytest.mark.parametrize(
    ("fields", "variables", "reasoning"),
    [
        ({}, {}, "parsed"),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, {}, "parsed"),
        ({"thinking": {"type": "enabled"}}, {"enable_thinking": True}, "parsed"),
        ({"thinking": {"type": "disabled"}}, {"enable_thinking": False}, "hidden"),
        ({"output_config": {"effort": "xhigh"}}, {"reasoning_effort": "xhigh"}, "parsed"),
        (
            {"context_management": {"edits": [{"type": "clear_thinking_2025", "keep": "all"}]}},
            {"clear_thinking": False},
            "parsed",
        ),
    ],
)
def test_thinking(sealer: Sealer, fields: Any, variables: Any, reasoning: str) -> None:
    request, _ = read(sealer, user(text("Hi")), **fields)
    assert (request.chat_template_kwargs, request.reasoning) == (variables, reasoning)


def test_forms_in_both_places(sealer: Sealer) -> None:
    form = {"type": "json_schema", "schema": {"type": "object"}}
    for fields, place in (
        ({"output_config": {"format": form}}, "output_config.format.schema"),
        ({"output_format": form}, "output_format.schema"),
    ):
        request, _ = read(sealer, user(text("Hi")), **fields)
        assert request.response_format is not None
        assert (request.response_format.kind, request.response_format.param) == (
            "json_schema",
            place,
        )


@pytest.mark.parametrize("number", range(1, 20))
def test_captured_conversations_are_understood(sealer: Sealer, number: int) -> None:
    for given in bodies(number):
        if "thread" in given:
            continue
        kind = MessagesRequest if "max_tokens" in given else ConversationBody
        body = kind.parse(given)
        assert body.review(strict=True) == body.review(strict=False)
        request, history = body.read(sealer)
        assert request.messages
        assert not any("billing" in message.text for message in request.messages)
        assert all("PDF" in w or "source" in w or "tools" in w for w in history.warnings)


def test_marks(sealer: Sealer) -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    hour = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    request, _ = read(
        sealer,
        user(text("a", **mark), text("b")),
        assistant(text("c"), {**CALL, **mark}),
        user({**RESULT, **hour}, text("d", **mark)),
        system=[text("S", **mark), text("T", **hour)],
    )
    found = [(each.messages, each.parts, each.seconds) for each in request.breakpoints]
    assert found == [(2, 1, 300.0), (3, 0, 300.0), (4, 0, 3600.0), (5, 0, 300.0)]
    request, _ = read(sealer, user(text("a")), cache_control={"type": "ephemeral"}, system="S")
    assert [(each.messages, each.parts) for each in request.breakpoints] == [(2, 0)]
    tool = {"name": "f", "input_schema": {}, **mark}
    request, _ = read(sealer, user(text("a")), tools=[tool], system="S")
    assert [(each.messages, each.parts) for each in request.breakpoints] == [(1, 0)]
