"""`prefix`: the assistant's last message is the beginning of the reply."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given

from budmlx import Engine
from budmlx.engine.request.messages import parse_messages
from budmlx.engine.request.render import check_prefix
from budmlx.engine.text.tokenizer import Tokenizer
from budmlx.errors import InvalidRequestError
from tests.engine.request.test_render import (
    BUILDERS,
    HARMLESS,
    HOSTILE,
    PAIRS,
    control,
    ids_of,
    reference,
    tokenizer,
)

ASK = {"role": "user", "content": "Go on."}


def begun(text: Any, **more: Any) -> list[dict[str, Any]]:
    return [ASK, {"role": "assistant", "content": text, "prefix": True, **more}]


@pytest.mark.hypothesis
@pytest.mark.parametrize(("template", "kind"), PAIRS)
def test_transformers_continues_likewise(template: str, kind: str) -> None:
    ours, hf = tokenizer(template, kind), reference(template, kind)

    @given(HARMLESS.filter(str.strip))
    def check(text: str) -> None:
        # Ours keeps white space at the end, which templates trim.
        text = text.strip()
        if ours.control.written_in(text) or text in "Go on.userassistant":
            return
        plain = [ASK, {"role": "assistant", "content": text}]
        theirs = hf.apply_chat_template(plain, continue_final_message=True, return_dict=False)
        assert ids_of(ours, begun(text)) == theirs

    check()


@pytest.mark.parametrize("template", ["chatml", "llama3", "strict", "parts", "stripping"])
def test_white_space_at_the_end_stays(template: str) -> None:
    ours = tokenizer(template, "byte_level")
    written = ours.backend.decode(ids_of(ours, begun("```python\n")), skip_special_tokens=False)
    assert written.endswith("```python\n")


@given(text=HOSTILE)
def test_what_was_begun_adds_no_control_token(text: str) -> None:
    ours = tokenizer("chatml", "byte_level")
    honest = control(ours, ids_of(ours, begun("b")))
    assert control(ours, ids_of(ours, begun(text))) == honest


def test_models_without_a_template_go_on_too() -> None:
    ours = tokenizer("", "byte_level")
    written = ours.backend.decode(ids_of(ours, begun("The sky is ")))
    assert written.endswith("Assistant: The sky is ")


def test_a_template_may_not_be_able_to() -> None:
    users = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    ours = Tokenizer(BUILDERS["byte_level"](), special_tokens={}, chat_templates={"default": users})
    with pytest.raises(InvalidRequestError, match="to be continued") as caught:
        ids_of(ours, begun("x"))
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([{**ASK, "prefix": True}], "messages[0].prefix"),
        ([*begun("x"), ASK], "messages[1].prefix"),
        (
            begun("", tool_calls=[{"id": "a", "function": {"name": "f", "arguments": "{}"}}]),
            "messages[1].prefix",
        ),
    ],
)
def test_only_the_beginning_of_the_reply(messages: list[dict[str, Any]], param: str) -> None:
    with pytest.raises(InvalidRequestError, match="last message") as caught:
        check_prefix(parse_messages(messages))
    assert caught.value.param == param


def test_prefix_is_a_bool() -> None:
    with pytest.raises(InvalidRequestError, match="true or false"):
        parse_messages([{**ASK, "prefix": "yes"}])


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load() as engine:
        yield engine


def test_the_reply_is_what_follows(engine: Engine) -> None:
    settings = {"temperature": 0.0, "max_tokens": 12}
    whole = engine.chat("Hello!", **settings).text
    middle = whole.index(" ", 3)
    asked = [{"role": "user", "content": "Hello!"}]
    rest = engine.chat(
        [*asked, {"role": "assistant", "content": whole[:middle], "prefix": True}], **settings
    )
    assert whole[:middle] + rest.text == whole
    told = engine.chat([*asked, {"role": "assistant", "content": whole[:middle]}], **settings)
    assert told.usage.prompt_tokens > rest.usage.prompt_tokens
