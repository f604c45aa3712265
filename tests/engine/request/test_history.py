"""Histories in an order and a form that templates take, with the text of all messages."""

from __future__ import annotations

import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budmlx import Engine
from budmlx.engine.request.history import History, changes, history_for
from budmlx.engine.request.messages import parse_messages
from budmlx.engine.request.render import render
from budmlx.engine.template.template import ChatTemplate
from budmlx.engine.text.tokenizer import Tokenizer
from budmlx.errors import InvalidRequestError
from budmlx.types import ImagePart, Message, TextPart
from tests import tokenizers
from tests.engine.request.strict_templates import STRICT_TEMPLATES
from tests.engine.request.test_round_trip import TEMPLATES
from tests.models import tiny_model_dir

NAMED = {"bos_token": "<s>", "eos_token": "</s>"}
S, M = {"role": "system", "content": "Brief"}, {"role": "system", "content": "Blue"}
U, V = {"role": "user", "content": "Hi"}, {"role": "user", "content": "More"}
A, B = {"role": "assistant", "content": "Hello"}, {"role": "assistant", "content": "Also"}
D = {"role": "developer", "content": "Green"}
ORDERS: list[list[dict[str, Any]]] = [
    [S, U, A, M, V],
    [S, M, U],
    [S, D, U],
    [S, U, A, V, M],
    [U, M],
    [U, M, D, A, V],
    [U, A, D, M, V],
    [S],
    [S, M],
    [S, A],
    [M, D, S, A, U],
    [U, V],
    [U, A, B, V],
    [A, U],
    [S, A, B, U, V, M],
    [A],
    [S, U, A, M],
]


@cache
def tokenizer(name: str) -> Tokenizer:
    templates = {"default": TEMPLATES[name]}
    return Tokenizer(tokenizers.byte_level(), special_tokens=NAMED, chat_templates=templates)


def shown(name: str, messages: list[dict[str, Any]], **kwargs: Any) -> str:
    ours = tokenizer(name)
    ids = render(ours, parse_messages(messages), kwargs)
    return str(ours.backend.decode(ids, skip_special_tokens=False))


def notes(name: str, messages: list[dict[str, Any]]) -> list[str]:
    return changes(tokenizer(name).template(), parse_messages(messages))


@pytest.mark.parametrize("messages", ORDERS, ids=lambda ms: "".join(m["content"][0] for m in ms))
@pytest.mark.parametrize(
    "name", [*STRICT_TEMPLATES, "qwen38", "gemma-it", "llama-2-chat", "llama4"]
)
def test_any_order_of_roles_is_written_in_that_order(
    name: str, messages: list[dict[str, Any]]
) -> None:
    text = shown(name, messages)
    head = 0
    while messages[head : head + 1] and messages[head]["role"] in ("system", "developer"):
        head += 1
    places = [text.find(message["content"]) for message in messages]
    assert -1 not in places
    assert places[head:] == sorted(places[head:])


def test_instructions_stay_in_place_where_the_template_takes_them() -> None:
    text = shown("qwen2.5-instruct", [S, U, A, M, V])
    assert "<|im_start|>system\nBlue<|im_end|>" in text
    assert notes("qwen2.5-instruct", [S, U, A, M, V]) == []


def test_instructions_between_become_a_reminder_in_the_users_message() -> None:
    text = shown("qwen38", [S, U, M, A, D, V])
    assert "Hi\n\n<system-reminder>\nBlue\n</system-reminder><|im_end|>" in text
    assert "user\n<system-reminder>\nGreen\n</system-reminder>\n\nMore<|im_end|>" in text
    found = notes("qwen38", [S, U, M, A, D, V])
    assert [note[:11] for note in found] == ["messages[2]", "messages[4]"]
    assert all("system-reminder" in note for note in found)


def test_many_changes_are_counted() -> None:
    found = notes("qwen38", [U, A, *([M, V, A] * 20)])
    assert len(found) == 17
    assert found[-1] == "4 more messages were changed."


def test_leading_instructions_are_joined() -> None:
    assert "Brief\n\nBlue\n\nGreen<|im_end|>" in shown("qwen38", [S, M, D, U])
    assert notes("qwen38", [S, M, D, U])[0].startswith("The chat template takes one")
    assert "user:Brief\n\nGreen\n\nHi<|im_end|>" in shown("no_system", [S, D, U])
    assert "no place" in notes("no_system", [S, D, U])[0]


def test_nothing_comes_between_a_call_and_its_result() -> None:
    call = {"id": "c", "function": {"name": "f", "arguments": "{}"}}
    calling = {"role": "assistant", "content": None, "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "c", "content": "Done"}
    text = shown("qwen38", [U, calling, M, result, V])
    assert text.index("Done") < text.index("Blue") < text.index("More")


def test_a_reminder_joins_pictures() -> None:
    picture = Message(role="user", content=(ImagePart(b""), TextPart("a")))
    template = tokenizer("qwen38").template()
    joined = history_for(template, [picture, *parse_messages([M])]).messages
    assert len(joined) == 1
    assert joined[0].content[:2] == picture.content
    assert "Blue" in joined[0].text


CALLS = [
    {"id": f"c{i}", "type": "function", "function": {"name": name, "arguments": '{"a": "Arg"}'}}
    for i, name in enumerate(("first", "second"))
]
RESULTS = [{"role": "tool", "tool_call_id": f"c{i}", "content": f"Result{i}"} for i in (0, 1)]
CALLING = {"role": "assistant", "content": None, "tool_calls": CALLS}


@pytest.mark.hypothesis
@given(st.lists(st.sampled_from([S, U, A, D, {**A, "reasoning": "Thought"}, CALLING]), min_size=1))
def test_what_a_template_takes_is_left_alone(messages: list[dict[str, Any]]) -> None:
    given = parse_messages(messages)
    taken = 0
    for name in STRICT_TEMPLATES:
        template = tokenizer(name).template()
        if template.takes(given):
            taken += 1
            assert history_for(template, given) == History(given, ())
    alone = [m["role"] for m in messages] == ["user"]
    assert taken == len(STRICT_TEMPLATES) or not alone


@pytest.mark.parametrize("results", [RESULTS, RESULTS[::-1]], ids=["in order", "out of order"])
@pytest.mark.parametrize("name", ["one_call", "gpt_oss"])
def test_several_calls_become_turns_of_one_with_its_result(
    name: str, results: list[dict[str, Any]]
) -> None:
    text = shown(name, [U, CALLING, *results, V])
    words = re.findall("first|Result0|second|Result1|More", text)
    assert list(dict.fromkeys(words)) == ["first", "Result0", "second", "Result1", "More"]


def test_a_call_without_a_result_stays() -> None:
    text = shown("one_call", [U, CALLING, RESULTS[1], V])
    assert text.index("first") < text.index("second") < text.index("Result1")


IDS = ("call_1", "chatcmpl-tool-0123456789abcdef", "functions.f:0", "", "abcDEF123", "日本")


@pytest.mark.parametrize("given", IDS)
def test_ids_that_the_template_refuses_become_others(given: str) -> None:
    calling = {**CALLING, "tool_calls": [{**CALLS[0], "id": given}]}
    result = {**RESULTS[0], "tool_call_id": given}
    text = shown("mistral", [U, calling, result, A, V])
    [call_id, result_id] = re.findall(r'id": "([A-Za-z0-9]{9})"', text)
    assert call_id == result_id
    assert (call_id == given) == (given == "abcDEF123")
    assert text == shown("mistral", [U, calling, result, A, V])


def test_results_without_ids_answer_the_calls_in_turn() -> None:
    calls = [{"function": CALLS[i]["function"]} for i in (0, 1)]
    results = [{"role": "tool", "content": f"Result{i}"} for i in (0, 1)]
    text = shown("mistral", [U, {**CALLING, "tool_calls": calls}, *results])
    ids = re.findall(r'id": "([A-Za-z0-9]{9})"', text)
    assert ids[:2] == ids[2:] and len(set(ids)) == 2


def test_a_template_that_writes_ids_for_names_gets_names_in_them() -> None:
    text = shown("kimi", [U, CALLING, *RESULTS, A, V, CALLING, *RESULTS])
    assert re.findall(r"<call>([^<]+)<", text) == [
        "functions.first:0",
        "functions.second:1",
        "functions.first:2",
        "functions.second:3",
    ]
    assert "Return of functions.second:3\nResult1" in text
    own = [{**CALLS[0], "id": "functions.first:7"}]
    result = {**RESULTS[0], "tool_call_id": "functions.first:7"}
    text = shown("kimi", [U, {**CALLING, "tool_calls": own}, result])
    assert text.count("functions.first:7") == 2


def test_new_ids_are_such_as_the_template_takes() -> None:
    for name, form in {"mistral": "[A-Za-z0-9]{9}", "kimi": "call_[0-9a-f]{24}"}.items():
        template = tokenizer(name).template()
        made = {template.new_call_id() for _ in range(9)}
        assert len(made) == 9
        assert all(re.fullmatch(form, each) for each in made)


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning"])
@pytest.mark.parametrize(
    ("name", "text"),
    {
        "gpt_oss": "analysis Thought<",
        "magistral": "[THINK]Thought[/THINK]",
        "reasoning_key": "<think>Thought</think>",
        "qwen38": "<think>\nThought\n</think>",
        "gemma4_31b": "<|channel>thought\nThought\n<channel|>",
        "glimmer": "to=self<|message|>Thought<|eom|>",
        "nemotron35": "Thought",
        "laguna_v8": "<think>Thought</think>",
    }.items(),
)
def test_reasoning_is_written_as_the_template_writes_it(name: str, text: str, key: str) -> None:
    kwargs = {"enable_thinking": True} if name == "laguna_v8" else {}
    thinking = {**CALLING, "tool_calls": CALLS[:1], key: "Thought"}
    assert text in shown(name, [U, thinking, RESULTS[0]], **kwargs)
    assert notes(name, [U, thinking, RESULTS[0]]) == []


def test_reasoning_and_content_beside_calls_are_both_written() -> None:
    thinking = {**CALLING, "content": "Said", "reasoning": "Thought"}
    for name in ("gpt_oss", "glimmer", "magistral"):
        text = shown(name, [U, thinking, *RESULTS])
        assert text.index("Thought") < text.index("Said") < text.index("first")


def test_reasoning_that_is_not_written_is_reported() -> None:
    [note] = notes("zephyr", [U, {**A, "reasoning_content": "Thought"}, V])
    assert note.startswith("reasoning_content has no effect")


def test_a_template_without_calls_gets_them_as_text() -> None:
    text = shown("gemma-it", [U, CALLING, *RESULTS, A, V])
    for word in ("first", "second", "Arg", "Result0", "Result1", "Hello", "More"):
        assert word in text


@pytest.mark.parametrize(
    ("name", "asked", "taken"),
    [
        ("levels", "low", "low"),
        ("levels", "minimal", "low"),
        ("levels", "medium", "medium"),
        ("levels", "high", "xhigh"),
        ("levels", "max", "xhigh"),
        ("gpt_oss", "xhigh", "high"),
        ("gpt_oss", "minimal", "low"),
        ("gpt_oss", "medium", "medium"),
    ],
)
def test_the_nearest_level_of_effort_is_taken(name: str, asked: str, taken: str) -> None:
    text = shown(name, [U], reasoning_effort=asked)
    assert f"effort={taken}" in text or f"Reasoning: {taken}" in text
    _, note = tokenizer(name).template().with_known_effort({"reasoning_effort": asked})
    assert bool(note) == (asked != taken)
    assert asked == taken or (taken in note and asked in note)


def test_what_is_rendered_otherwise_is_told_in_the_reply(tmp_path: Path) -> None:
    shutil.copytree(tiny_model_dir(), tmp_path, dirs_exist_ok=True)
    (tmp_path / "chat_template.jinja").write_text(TEMPLATES["levels"])
    with Engine.load(tmp_path) as engine:
        reply = engine.chat([U], max_tokens=1, chat_template_kwargs={"reasoning_effort": "high"})
        [level] = reply.warnings
        reply = engine.chat([U, {**A, "reasoning_content": "Thought"}, V], max_tokens=1)
        [reasoning] = reply.warnings
    assert "xhigh" in level and "reasoning" in reasoning


def test_no_effort_is_no_reasoning_where_the_template_has_a_switch() -> None:
    template = tokenizer("qwen38").template()
    assert "enable_thinking" in template.names and "none" not in template.efforts
    for others, thinks in (({}, False), ({"enable_thinking": True}, True)):
        kwargs, note = template.with_known_effort({"reasoning_effort": "none", **others})
        assert (kwargs, note) == ({"enable_thinking": thinks}, "")
    assert shown("qwen38", [U], reasoning_effort="none").rstrip().endswith("</think>")


def test_a_level_that_no_model_knows_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequestError, match="low, medium, xhigh") as caught:
        shown("levels", [U], reasoning_effort="extreme")
    assert caught.value.param == "reasoning_effort"


def test_effort_without_a_variable_for_it_has_no_levels() -> None:
    template = tokenizer("zephyr").template()
    assert template.efforts == ()
    assert template.with_known_effort({"reasoning_effort": "max"})[1] == ""


def test_empty_replies_and_parts_of_other_servers_are_read() -> None:
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Thought"}]},
        {"type": "output_text", "text": "Said"},
        {"type": "refusal", "refusal": "No."},
    ]
    parsed = parse_messages(
        [
            U,
            {"role": "assistant"},
            {"role": "assistant", "content": None, "refusal": "Never."},
            {"role": "assistant", "content": parts},
            {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        ]
    )
    assert [message.text for message in parsed] == ["Hi", "", "Never.", "SaidNo.", "Hi"]
    assert parsed[3].reasoning == "Thought"


def test_probing_takes_no_template_for_another() -> None:
    """A template that takes everything is left alone."""
    plain = "{% for m in messages %}{{ m.role ~ m.content }}{% endfor %}"
    template = ChatTemplate(plain, {})
    messages = parse_messages([S, M, A, U, D, V, B])
    assert history_for(template, messages).messages == messages
