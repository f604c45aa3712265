"""Long requests do not stop the event loop, whichever part of them is long."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from budmlx import Engine
from budmlx.engine.request.prepare import MAX_EXPLAINED
from budmlx.engine.text.control_tokens import LONG_TEXT
from budmlx.errors import ContextLengthError
from budmlx.testing.tiny_random import LLAMA
from budmlx.types import Message, Request, TextPart, Tool, ToolCall
from tests.models import tiny_model_dir

WORDS = "lorem ipsum <b>dolor</b> "
LONG = WORDS * (LONG_TEXT // len(WORDS) + 1)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load(tiny_model_dir(scale=4.0)) as engine:
        yield engine


def user(content: str, **fields: Any) -> Message:
    return Message(role="user", content=content, **fields)


def calling(arguments: str) -> tuple[Message, ...]:
    call = ToolCall("a", "f", arguments)
    answer = Message(role="tool", tool_call_id="a", content="done")
    return user("Hi"), Message(role="assistant", tool_calls=(call,)), answer


def turns(count: int, content: str) -> tuple[Message, ...]:
    roles = ("user", "assistant")
    return tuple(Message(role=roles[i % 2], content=content) for i in range(count))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "request_",
    [
        Request(messages=(user(WORDS * 80_000),)),
        pytest.param(
            Request(messages=calling(json.dumps({"text": WORDS * 80_000}))), marks=pytest.mark.long
        ),
        Request(messages=turns(120, "<|im_start|>" + WORDS * 4), explain_cache=True),
    ],
    ids=["content", "arguments", "explained"],
)
async def test_the_loop_goes_on_meanwhile(engine: Engine, request_: Request) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.005)
            ticks += 1

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0.02)
    before = ticks
    with pytest.raises(ContextLengthError):
        [_ async for _ in engine.aevents(request_)]
    during = ticks - before
    ticking.cancel()
    # Work on the loop, or work that lets no other thread run, leaves it a few turns at most.
    assert during >= 10, during


def test_all_that_is_rendered_counts(engine: Engine) -> None:
    def is_quick(*messages: Message, **options: Any) -> bool:
        return engine._pipeline.preparation.is_quick(Request(messages=messages, **options))

    schema = {"type": "object", "properties": {"x": {"enum": [LONG]}}}
    assert is_quick(user("Hi", name="me"), tools=(Tool("f", "d"),), explain_cache=True)
    assert is_quick(*calling("{}"), chat_template_kwargs={"thinking": True})
    assert is_quick(*turns(20, WORDS))
    slow = [
        is_quick(user(LONG)),
        is_quick(user("Hi", name=LONG)),
        is_quick(Message(role="user", content=(TextPart("Hi"), TextPart(LONG)))),
        is_quick(*calling(LONG)),
        is_quick(user("Hi"), Message(role="assistant", reasoning=LONG)),
        is_quick(user("Hi"), tools=(Tool("f", LONG),)),
        is_quick(user("Hi"), tools=(Tool("f", parameters=schema),)),
        is_quick(user("Hi"), chat_template_kwargs={"thinking": [10**LONG_TEXT] * 3}),
        is_quick(*turns(LONG_TEXT // 64, "")),
        is_quick(*turns(20, WORDS), explain_cache=True),
        engine._pipeline.preparation.is_quick(Request(prompt=LONG)),
    ]
    assert not any(slow), slow


def ends_of(engine: Engine, messages: tuple[Message, ...]) -> tuple[int, ...]:
    request = Request(messages=messages, explain_cache=True)
    return engine._pipeline.preparation.prepared(request)[1].ends


def test_where_messages_end_is_found_within_bounds() -> None:
    with Engine.load(tiny_model_dir({**LLAMA, "max_position_embeddings": 10**7})) as engine:
        few = turns(6, WORDS)
        whole = engine.apply_template(Request(messages=few)).ids
        *found, last = ends_of(engine, few)
        assert len(found) == 5 and last == len(whole)
        for count, end in enumerate(found, start=1):
            beginning = engine.apply_template(Request(messages=few[:count])).ids
            assert beginning[:end] == whole[:end] and len(beginning) - end < 20
        known = len(ends_of(engine, turns(300, "word " * 50)))
        assert MAX_EXPLAINED / 2 < 250 * known * (known + 1) / 2 < MAX_EXPLAINED
        # The last message ends where the prompt does: nothing need be rendered for it.
        assert len(ends_of(engine, (user("x" * MAX_EXPLAINED),))) == 1


REFUSING = """\
{%- if messages[-1].role == 'system' %}{{ raise_exception('No user query.') }}{% endif %}
{%- for message in messages %}{{- message.role + ': ' + message.content + '\\n' }}{% endfor %}"""


def test_refused_beginnings_do_not_shift_the_others(tmp_path: Path) -> None:
    shutil.copytree(tiny_model_dir(scale=4.0), tmp_path, dirs_exist_ok=True)
    (tmp_path / "chat_template.jinja").write_text(REFUSING)
    rules = {"role": "system", "content": "Speak of foxes. " * 8}
    turn = [{"role": "user", "content": "Begin."}, {"role": "assistant", "content": "No."}]
    with Engine.load(tmp_path) as engine:
        for last in ("Why not?", "Do it again."):
            asked = [rules, *turn, {"role": "user", "content": last}]
            told = engine.chat(asked, max_tokens=1, explain_cache=True).cache_explanation
    assert told is not None
    assert (told.reason, told.message) == ("differs", 3)
