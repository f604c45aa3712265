"""Pictures in results of tools: shown to a model that sees, left out for one that does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from budmlx import Engine
from budmlx.errors import InvalidRequestError
from budmlx.types import ImagePart, Message, Request, SamplingParams, TextPart, ToolCall
from tests.models import tiny_model_dir
from tests.vision_plugin import PICTURES_FIRST, TOKEN, picture, write_vision_model

TEMPLATES = {"marked": {}, "written": {"template": PICTURES_FIRST}}


def conversation(*results: Any, last: str = "", instead: str = "[none]") -> Request:
    """Calls whose results are texts, or pictures with a text before them."""
    messages = [
        Message(role="user", content="Look"),
        Message(
            role="assistant",
            tool_calls=tuple(ToolCall(f"call{n}", "f", "{}") for n in range(len(results))),
        ),
    ]
    for number, shown in enumerate(results):
        content: Any = shown
        if not isinstance(shown, str):
            content = (TextPart("Seen."), ImagePart(shown, place="image", instead=instead))
        messages.append(Message(role="tool", content=content, tool_call_id=f"call{number}"))
    if last:
        messages.append(Message(role="user", content=(TextPart(last), ImagePart(picture(9)))))
    sampling = SamplingParams(temperature=0.0, max_tokens=6, ignore_eos=True)
    return Request(messages=tuple(messages), sampling=sampling)


def written_for(engine: Engine, request: Request) -> int:
    *_, last = engine.events(request)
    return last.usage.completion_tokens  # type: ignore[union-attr]


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_model_that_sees_is_shown_them_in_their_order(tmp_path: Path, template: str) -> None:
    path = write_vision_model(tmp_path / "marks", **TEMPLATES[template])
    with Engine.load(path, plugins=["tests.vision_plugin"], engine_host="thread") as engine:
        for shown, count in ((("a", picture(1)), 4), ((picture(1), "b", picture(2)), 8)):
            request = conversation(*shown, last="And this?")
            prompt = engine.apply_template(request)
            assert prompt.text.count(TOKEN) == count + 4
            assert prompt.text.index(TOKEN) > prompt.text.rindex("Seen.")
            assert engine.count_tokens(request) == len(prompt.ids)
            assert written_for(engine, request) == 6
        # Another picture, or another order, is another prompt.
        one, two = (picture(3), picture(4)), (picture(4), picture(3))
        *_, first = engine.events(conversation(*one))
        *_, again = engine.events(conversation(*one))
        *_, other = engine.events(conversation(*two))
        assert again.usage.cached_tokens == first.usage.prompt_tokens - 1  # type: ignore[union-attr]
        assert other.usage.cached_tokens < again.usage.cached_tokens  # type: ignore[union-attr]


def test_a_model_that_does_not_see_reads_that_they_are_missing() -> None:
    with Engine.load(tiny_model_dir()) as engine:
        request = conversation(picture(1), "b")
        assert "[none]" in engine.apply_template(request).text
        assert written_for(engine, request) == 6
        [warning] = engine.warnings(request)
        assert warning.startswith("The pictures of messages[2] were left out")
        for refused in (conversation(picture(1), instead=""), conversation("a", last="And this?")):
            with pytest.raises(InvalidRequestError, match="text only"):
                engine.apply_template(refused)
