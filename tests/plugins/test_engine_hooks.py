"""Message transforms, output filters and observers of requests, on a real engine."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from budmlx import Engine, hookimpl
from budmlx.errors import InvalidRequestError, PluginError
from budmlx.plugins.limits import PluginLimits
from budmlx.plugins.specs import (
    EndText,
    MessageTransform,
    OutputFilter,
    OutputFilterFactory,
    RequestRecord,
)
from budmlx.testing import check_message_transform, check_output_filter
from budmlx.types import Message, TextDelta
from tests.models import tiny_model_dir
from tests.plugins.engines import load_within

GREEDY = {"temperature": 0, "max_tokens": 20}


class Plugin:
    """A live plugin of whatever a test needs."""

    def __init__(
        self,
        transforms: Sequence[MessageTransform] = (),
        filters: Sequence[OutputFilterFactory] = (),
    ):
        self.transforms = transforms
        self.filters = filters
        self.records: list[RequestRecord] = []

    @hookimpl
    def add_message_transforms(self) -> Sequence[MessageTransform]:
        return self.transforms

    @hookimpl
    def add_output_filters(self) -> Sequence[OutputFilterFactory]:
        return self.filters

    @hookimpl
    def on_request_finished(self, record: RequestRecord) -> None:
        self.records.append(record)


def load(*plugins: object, **settings: Any) -> Engine:
    return Engine.load(tiny_model_dir(scale=4.0), plugins=plugins, **settings)


@pytest.fixture(scope="module")
def plain() -> str:
    """What the model says when nothing interferes."""
    with load() as engine:
        text = engine.chat("Hello", **GREEDY).text
    assert len(text) > 10
    return text


# Message transforms


def shout(messages: tuple[Message, ...]) -> list[Message]:
    return [replace(message, content=message.text.upper()) for message in messages]


def test_transforms_run_before_the_template_in_order() -> None:
    def add_mark(messages: tuple[Message, ...]) -> tuple[Message, ...]:
        return (*messages, Message(role="user", content="mark"))

    check_message_transform(shout)
    check_message_transform(add_mark)
    with load() as engine:
        both = [Message(role="user", content=text) for text in ("HI", "MARK")]
        expected = engine.chat(both, **GREEDY)
    with load(Plugin([add_mark, shout])) as engine:
        reply = engine.chat("hi", **GREEDY)
        assert (reply.text, reply.usage) == (expected.text, expected.usage)
        assert engine.complete("hi", **GREEDY).usage.prompt_tokens < reply.usage.prompt_tokens


def refuse(messages: tuple[Message, ...]) -> list[Message]:
    raise InvalidRequestError("Not that word.", param="messages[0]")


def test_a_transform_may_refuse_a_request() -> None:
    with load(Plugin([refuse])) as engine, pytest.raises(InvalidRequestError) as caught:
        engine.chat("hi", **GREEDY)
    assert caught.value.param == "messages[0]"


BAD_TRANSFORMS: dict[str, Callable[..., Any]] = {
    "raises": lambda messages: 1 / 0,
    "returns nothing": lambda messages: None,
    "returns no messages": lambda messages: [],
    "returns other things": lambda messages: ["hi"],
    "returns broken messages": lambda messages: [Message(role="robot")],  # type: ignore[arg-type]
    "changes its input": lambda messages: setattr(messages[0], "content", "x"),
}


@pytest.mark.parametrize("kind", BAD_TRANSFORMS)
def test_a_bad_transform_fails_its_request(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    with load(Plugin([BAD_TRANSFORMS[kind]])) as engine:
        with pytest.raises(PluginError, match="Plugin-0") as caught:
            engine.chat("secret words", **GREEDY)
        assert engine.complete("fine", **GREEDY).finish_reason
    assert caught.value.code == "plugin_error"
    assert "Plugin Plugin-0" in caplog.text and "secret" not in caplog.text


async def test_a_transform_that_hangs_fails_its_request_and_no_other(
    plain: str, caplog: pytest.LogCaptureFixture
) -> None:
    released = threading.Event()

    def hang(messages: tuple[Message, ...]) -> tuple[Message, ...]:
        if messages[0].text == "secret words":
            released.wait()
        return messages

    # Long enough for those that do not hang, on a machine that pauses.
    limits = PluginLimits(call_seconds=3.0)
    with load_within(limits, tiny_model_dir(scale=4.0), Plugin([hang])) as engine:
        asks = [engine.achat(text, **GREEDY) for text in ("secret words", "Hello")]
        hung, fine = await asyncio.gather(*asks, return_exceptions=True)
        with pytest.raises(PluginError, match="Plugin-0"):
            engine.chat("secret words", **GREEDY)
    released.set()
    assert isinstance(hung, PluginError) and "Plugin-0" in hung.message
    assert not isinstance(fine, BaseException) and fine.text == plain
    assert "Plugin Plugin-0" in caplog.text and "secret" not in caplog.text


# Output filters


class Redact:
    """Replaces a word, which may arrive in pieces."""

    def __init__(self, word: str):
        self.word = word
        self.held = ""

    def push(self, text: str, last: bool) -> str:
        self.held = (self.held + text).replace(self.word, "#")
        keep = 0 if last else len(self.word) - 1
        shown = self.held[: max(0, len(self.held) - keep)]
        self.held = self.held[len(shown) :]
        return shown


class End:
    """Ends the text at the first place where a word stands."""

    def __init__(self, word: str):
        self.word = word
        self.held = ""

    def push(self, text: str, last: bool) -> str | EndText:
        self.held += text
        if self.word in self.held:
            return EndText(self.held.partition(self.word)[0])
        keep = 0 if last else len(self.word) - 1
        shown = self.held[: max(0, len(self.held) - keep)]
        self.held = self.held[len(shown) :]
        return shown


def test_a_filter_redacts(plain: str) -> None:
    word = plain[3:6]
    check_output_filter(lambda: Redact("wide"))
    with load(Plugin(filters=[lambda: Redact(word)])) as engine:
        reply = engine.chat("Hello", **GREEDY)
        assert reply.text == plain.replace(word, "#") and reply.finish_reason == "length"
        deltas = [e for e in engine.stream("Hello", **GREEDY) if isinstance(e, TextDelta)]
        assert "".join(delta.text for delta in deltas) == reply.text
        assert len(deltas) > 1


def test_a_filter_ends_the_text_and_the_row(plain: str) -> None:
    word = plain[3:6]
    check_output_filter(lambda: End("wide"))
    plugin = Plugin(filters=[lambda: End(word), lambda: Redact(plain[0])])
    with load(plugin) as engine:
        ask = {**GREEDY, "max_tokens": 4000, "cache": True}
        reply = engine.chat("Hello", **ask)
        assert reply.text == plain.partition(word)[0].replace(plain[0], "#")
        assert reply.finish_reason == "content_filter"
        assert reply.usage.completion_tokens < 20
        assert not engine.chat("Hello", **ask).cached
    assert plugin.records[0].reasons == ("content_filter",)


async def test_equal_requests_that_are_filtered_do_not_queue_up(plain: str) -> None:
    with load(Plugin(filters=[lambda: End(plain[3:6])])) as engine:
        asks = [engine.achat("Hello", **GREEDY, cache=True) for _ in range(4)]
        replies = await asyncio.gather(*asks)
    assert {reply.finish_reason for reply in replies} == {"content_filter"}
    assert not any(reply.cached for reply in replies)


def test_each_choice_has_its_own_filter(plain: str) -> None:
    word = plain[3:6]
    with load(Plugin(filters=[lambda: Redact(word)])) as engine:
        choices = engine.chat("Hello", **GREEDY, n=2, logprobs=1).choices
    assert [choice.text for choice in choices] == [plain.replace(word, "#")] * 2
    assert not any(choice.logprobs for choice in choices)


def test_logprobs_would_tell_what_a_filter_hides() -> None:
    with load(Plugin(filters=[lambda: Redact("x")])) as engine:
        reply = engine.chat("Hello", **GREEDY, logprobs=1)
    assert any("logprobs are left out" in warning for warning in reply.warnings)


class Bad:
    def __init__(self, result: Any):
        self.result = result

    def push(self, text: str, last: bool) -> Any:
        return self.result() if callable(self.result) else self.result


BAD_FILTERS: dict[str, Callable[[], OutputFilter]] = {
    "cannot be made": lambda: 1 / 0,  # type: ignore[return-value]
    "is none": lambda: None,  # type: ignore[return-value]
    "raises": lambda: Bad(lambda: 1 / 0),
    "exits": lambda: Bad(exit),
    "returns nothing": lambda: Bad(None),
    "returns bytes": lambda: Bad(b"text"),
    "ends with nonsense": lambda: Bad(EndText(7)),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("kind", BAD_FILTERS)
async def test_a_bad_filter_fails_its_request_and_no_other(kind: str) -> None:
    made = itertools.count()  # on the threads of the requests

    def first_only() -> OutputFilter:
        return Redact("no such text") if next(made) else BAD_FILTERS[kind]()

    plugin = Plugin(filters=[first_only])
    with load(plugin) as engine:
        results = await asyncio.gather(
            *(engine.achat("Hello", **GREEDY) for _ in range(3)), return_exceptions=True
        )
        (error,) = [result for result in results if isinstance(result, BaseException)]
        assert isinstance(error, PluginError) and "Plugin-0" in error.message
    errors = [record.error for record in plugin.records]
    assert sorted(errors, key=str) == [None, None, "plugin_error"]


# Observers


def test_observers_learn_every_end_once() -> None:
    plugin = Plugin()
    with load(plugin) as engine:
        done = engine.chat("Hello", **GREEDY, cache=True)
        engine.chat("Hello", **GREEDY, cache=True)
        stream = engine.stream("Hello", max_tokens=2000)
        next(stream)
        stream.close()
        engine.chat_many(["a", "b"], **GREEDY, progress=False)
        engine._pipeline.dispatcher.host.close()
        with pytest.raises(Exception, match="closed"):
            engine.chat("Hello", **GREEDY)
    ends = [(record.outcome, record.cached, record.error) for record in plugin.records]
    finished = ("completed", False, None)
    assert ends == [
        finished,
        ("completed", True, None),
        ("cancelled", False, None),
        finished,
        finished,
        ("failed", False, "engine_closed"),
    ]
    assert plugin.records[0].usage == done.usage
    assert plugin.records[0].reasons == ("length",)
    assert "Hello" not in repr(plugin.records)
