"""Arguments of earlier calls that are no JSON object."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from budmlx.engine.request.arguments import completed, is_object, object_in
from budmlx.engine.request.past_calls import MAX_BROKEN, with_usable_calls
from budmlx.engine.template.probes import CallFeatures
from budmlx.errors import InvalidRequestError
from budmlx.types import Message, ToolCall

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text('ab"\\{}[],:é\n', max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('ab"}', max_size=3), inner),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text("ab ", max_size=3), JSON, max_size=3)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ('"{}"', {}),
        ('"{\\"a\\": \\"b\\"}"', {"a": "b"}),
        (json.dumps(json.dumps(json.dumps({"a": 1}))), {"a": 1}),
        ("null", {}),
        ('""', {}),
        ("None", {}),
        ("{'a': 1, 'b': [True, None]}", {"a": 1, "b": [True, None]}),
        ("{'a': true, 'b': null}", {"a": True, "b": None}),
        ('{"a": "x\ny"}', {"a": "x\ny"}),
        ('{"a": 1,}', {"a": 1}),
        ("{'a': ('b', -1.5)}", {"a": ["b", -1.5]}),
        ('[{"a": 1}]', {"a": 1}),
        ("  {'a': 1}\n", {"a": 1}),
    ],
)
def test_what_means_an_object_is_read_as_one(text: str, meant: dict[str, Any]) -> None:
    found = object_in(text)
    assert found is not None
    assert json.loads(found) == meant


@pytest.mark.parametrize(
    "text",
    [
        "[1]",
        "ls -la",
        "1",
        '"a"',
        "{",
        "{'a': f()}",
        "{'a': {1, 2}}",
        "{'a': b'x'}",
        "[" * 99_999,
        "{'a': '" + "x" * 99_999,
        "{'a': '" + "x" * 99_999 + "'}",
        "__import__('os')",
        "{(1, 2): 3}",
        "{'a': 10 ** 9}",
    ],
    ids=lambda text: text[:20],
)
def test_what_means_no_object_is_not(text: str) -> None:
    assert object_in(text) is None


@given(OBJECTS)
def test_an_object_survives_any_way_of_writing_it(value: dict[str, Any]) -> None:
    for text in (json.dumps(value), json.dumps(json.dumps(value)), repr(value)):
        found = object_in(text)
        assert found is not None
        assert json.loads(found) == value


@example({"a": [[None, "\\"]]}, 0.82)
@given(OBJECTS, st.floats(0, 1))
def test_an_object_that_is_cut_anywhere_is_completed(value: dict[str, Any], share: float) -> None:
    text = json.dumps(value, ensure_ascii=False)
    cut = text[: max(1, int(len(text) * share))]
    found = completed(cut)
    assert found is not None and is_object(found)


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ('{"command": "ls', {"command": "ls"}),
        ('{"a": [1, 2', {"a": [1, 2]}),
        ('{"a": {"b": "c"}, "d', {"a": {"b": "c"}, "d": None}),
        ('{"a": "x\\', {"a": "x"}),
        ('{"a": "x\\"', {"a": 'x"'}),
        ('{"a": "x\\u00', {"a": "x"}),
        ('{"a": tr', {"a": None}),
        ('{"a": 1, ', {"a": 1}),
        ("{", {}),
    ],
)
def test_what_was_there_stays(text: str, whole: dict[str, Any]) -> None:
    found = completed(text)
    assert found is not None
    assert json.loads(found) == whole


@pytest.mark.parametrize("text", ["", "ls", "[1", '{"a": 1}}', '{"a" 1'])
def test_other_texts_are_not_completed(text: str) -> None:
    assert completed(text) is None


@pytest.mark.parametrize(("end", "whole"), [(" !", None), ("", '{"a": null}')])
def test_the_time_of_the_longest_text_grows_with_its_length(end: str, whole: str | None) -> None:
    # If it grew with the square of it, this would take minutes.
    assert completed('{"a": ' + "b" * MAX_BROKEN + end) == whole


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        (r'{"a": "x\ud83d"}', {"a": "x\ufffd"}),
        (r'{"a": "\uDE42\ud83d\ude42"}', {"a": "\ufffd🙂"}),
        (r'{"\ud83d": ["\ud83d!"]}', {"\ufffd": ["\ufffd!"]}),
        (json.dumps(r'{"a": "\ud83d"}'), {"a": "\ufffd"}),
        (r"{'a': '\ud83d'}", {"a": "\ufffd"}),
        (r'{"a": "\ud83d', {"a": "\ufffd"}),
        (r'{"a": "\\ud83d"}', {"a": r"\ud83d"}),
    ],
)
def test_half_a_character_is_written_as_an_unknown_one(text: str, whole: dict[str, Any]) -> None:
    notes: list[str] = []
    message = Message(role="assistant", tool_calls=(ToolCall("c", "f", text),))
    [found] = with_usable_calls([message], CallFeatures(takes_json=False), notes)
    assert json.loads(found.tool_calls[0].arguments) == whole
    assert bool(notes) == (r"\\" not in text or text[0] != "{")


@pytest.mark.parametrize(
    ("text", "usable", "note"),
    [
        ('{"a": 1}', '{"a": 1}', ""),
        ("", "", ""),
        ('"{}"', "{}", "read as one"),
        ('{"a": "b', '{"a": "b"}', "its end was added"),
        ("[1]", '{"arguments": "[1]"}', "became the value"),
        ("ls -la", '{"arguments": "ls -la"}', "became the value"),
    ],
)
def test_templates_that_want_objects_get_one(text: str, usable: str, note: str) -> None:
    notes: list[str] = []
    message = Message(role="assistant", tool_calls=(ToolCall("c", "f", text),))
    features = CallFeatures(takes_json=False)
    user = Message(role="user", content="a")
    [_, found] = with_usable_calls([user, message], features, notes)
    assert found.tool_calls[0].arguments == usable
    assert bool(notes) == bool(note)
    for each in notes:
        assert each.startswith("messages[1].tool_calls[0].function.arguments ")
        assert note in each


def test_more_than_can_be_mended_is_refused_by_place() -> None:
    calls = tuple(ToolCall(f"c{i}", "f", "x" * (MAX_BROKEN // 2)) for i in range(3))
    with pytest.raises(InvalidRequestError) as caught:
        with_usable_calls([Message(role="assistant", tool_calls=calls)], CallFeatures(), [])
    assert caught.value.param == "messages[0].tool_calls[2].function.arguments"
