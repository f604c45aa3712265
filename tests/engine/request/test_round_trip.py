"""Replies sent back as they came: every template renders what any parser made of them."""

from __future__ import annotations

import json
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from budmlx.builtin.reasoning import provide_reasoning_parser
from budmlx.builtin.tool_parsers import FAMILIES, provide_tool_parser
from budmlx.engine.reply.output_reader import OutputReader, Stage
from budmlx.engine.request.history import history_for
from budmlx.engine.request.messages import parse_messages
from budmlx.engine.request.render import render
from budmlx.engine.request.tools import parse_tools
from budmlx.engine.template.template import ChatTemplate
from budmlx.engine.text.tokenizer import Tokenizer
from budmlx.plugins.parsing import Call, Content, ModelTraits, Thought
from tests import tokenizers
from tests.amount import usually
from tests.builtin.call_samples import SAMPLES, TOOLS, Sample
from tests.engine.request.strict_templates import STRICT_TEMPLATES

NAMED = {"bos_token": "<s>", "eos_token": "</s>"}
REAL = Path(__file__).parent / "chat_templates"
TEMPLATES = {path.stem: path.read_text("utf-8") for path in sorted(REAL.glob("*.jinja"))}
TEMPLATES |= STRICT_TEMPLATES
FAMILY_NAMES = [family.name for family in FAMILIES]
THINKING = {"enable_thinking": True}
USER = {"role": "user", "content": "Questioned"}


@cache
def tokenizer(name: str) -> Tokenizer:
    templates = {"default": TEMPLATES[name]}
    return Tokenizer(tokenizers.byte_level(), special_tokens=NAMED, chat_templates=templates)


def reply(sample: Sample, template: ChatTemplate, thought: str) -> dict[str, Any]:
    """The message of a reply, as the protocol has it."""
    traits = ModelTraits("", "<think>", frozenset())
    thinking = provide_reasoning_parser(name="think", model=traits)
    calling = provide_tool_parser(name=sample.family, model=ModelTraits("", ""))
    assert thinking is not None and calling is not None
    reader = OutputReader(
        Stage(thinking.make(""), "built-in", "reasoning"),
        Stage(calling.make(TOOLS, False), "built-in", "calls"),
        new_id=template.new_call_id,
    )
    pieces = list(reader.push(f"<think>\n{thought}\n</think>\n\n{sample.text}", last=True))
    calls = [piece for piece in pieces if isinstance(piece, Call)]
    return {
        "role": "assistant",
        "content": "".join(p.text for p in pieces if isinstance(p, Content)) or None,
        "reasoning_content": "".join(p.text for p in pieces if isinstance(p, Thought)) or None,
        "tool_calls": [
            {
                "id": reader.id_of(call),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in calls
        ],
    }


def written(name: str, messages: list[dict[str, Any]]) -> str:
    ours = tokenizer(name)
    tools = [{"type": "function", "function": {"name": t.name}} for t in TOOLS]
    template = ours.template()
    kwargs = {key: value for key, value in THINKING.items() if key in template.names}
    ids = render(ours, parse_messages(messages), kwargs, tools=parse_tools(tools))
    return str(ours.backend.decode(ids, skip_special_tokens=False))


def leaves(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in leaves(item)]
    return [value] if isinstance(value, str) and value.isalnum() else []


def cases() -> list[Any]:
    """Each template with each family; usually one family for each template, in turn."""
    few = {(t, FAMILY_NAMES[n % len(FAMILY_NAMES)]) for n, t in enumerate(TEMPLATES)}
    return usually(lambda case: case in few, product(TEMPLATES, FAMILY_NAMES))


@pytest.mark.parametrize(("name", "family"), cases())
def test_a_reply_that_is_sent_back_is_written_with_all_of_it(name: str, family: str) -> None:
    template = tokenizer(name).template()
    samples = [s for s in SAMPLES if s.family == family and s.calls]
    for sample in sorted(samples, key=lambda s: -len(s.calls))[:4]:
        for content in ("", "Said"):
            answer = reply(sample, template, "Pondered")
            if content:
                answer["content"] = " ".join(filter(None, [content, answer["content"]]))
            calls = answer["tool_calls"]
            results = [
                {"role": "tool", "tool_call_id": call["id"], "content": f"Result{n}"}
                for n, call in enumerate(calls)
            ]
            last = {"role": "assistant", "content": "Concluded"}
            for more in ([], [USER], [last, USER]):
                text = written(name, [USER, answer, *results[::-1], *more])
                wanted = [call["function"]["name"] for call in calls]
                for call in calls:
                    wanted += leaves(json.loads(call["function"]["arguments"]))
                wanted += [message["content"] for message in [*results, *more]]
                # Some write it as reasoning, and leave reasoning before a later answer out.
                if template.calls.reasoning_with_content or last not in more:
                    wanted += [content]
                if template.calls.reasoning and not more:
                    wanted += ["Pondered"]
                for word in wanted:
                    assert word in text, (word, text[-2000:])
                ids = [call["id"] for call in calls if len(call["id"]) >= 9]
                kept = [each for each in ids if each in text]
                # Some write no ids, and some want names in them, which few families write.
                assert kept == ids or not kept or template.calls.named_by_id, (ids, text[-2000:])


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_was_written_stays_when_a_conversation_goes_on(name: str) -> None:
    """KV is reused only where prompts begin alike, whatever follows."""
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Head"},
        {"role": "developer", "content": "More"},
        USER,
        {"role": "assistant", "content": "Answered"},
        {"role": "system", "content": "Between"},
        {"role": "user", "content": "Again"},
        {"role": "developer", "content": "Late"},
        {"role": "assistant", "content": "Twice"},
    ]
    template = tokenizer(name).template()
    whole = history_for(template, parse_messages(messages)).messages
    for count in (4, 8):
        begun = history_for(template, parse_messages(messages[:count])).messages
        assert begun == whole[: len(begun)]
    text = written(name, [*messages, USER])
    for message in messages:
        assert message["content"] in text, (message, text)


BROKEN = [
    '{"key": "Halfway',
    "{'key': 'Halfway'}",
    '"{\\"key\\": \\"Halfway\\"}"',
    "use Halfway",
    '["Halfway"]',
]


@pytest.mark.parametrize("name", TEMPLATES)
def test_broken_arguments_are_written_with_all_of_their_words(name: str) -> None:
    for arguments in BROKEN:
        function = {"name": "get_time", "arguments": arguments}
        calling = {"role": "assistant", "content": None, "tool_calls": [{"function": function}]}
        result = {"role": "tool", "content": "Done"}
        for more in ([], [USER]):
            text = written(name, [USER, calling, result, *more])
            assert "Halfway" in text and "Done" in text, (arguments, text[-2000:])


@pytest.mark.parametrize("name", TEMPLATES)
def test_calls_may_lack_results(name: str) -> None:
    function = {"name": "get_time", "arguments": '{"key": "Asked"}'}
    calls = [{"id": f"c{n}", "function": function} for n in range(2)]
    calling = {"role": "assistant", "content": None, "tool_calls": calls}
    result = {"role": "tool", "tool_call_id": "c0", "content": "Done"}
    for results in ([], [result]):
        for more in ([], [{"role": "assistant", "content": "Concluded"}, USER]):
            history = [USER, calling, *results, {"role": "user", "content": "Stopped"}, *more]
            text = written(name, history)
            wanted = ["Asked", "Stopped", *(["Done"] if results else [])]
            assert all(word in text for word in wanted), text[-2000:]
