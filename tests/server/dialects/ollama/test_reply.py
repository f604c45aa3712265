"""Lines of replies are those that Ollama's clients accept."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from budmlx.server.dialects.ollama.reply import ChatLines, GenerateLines, ReplyBuilder
from budmlx.server.errors import Failure
from budmlx.types import (
    Choice,
    ChoiceFinished,
    Completion,
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    Timing,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    Usage,
)

USAGE = Usage(120, 31, cached_tokens=64)
TIMING = Timing(0.001, 0.4, 1.099)
LAST = {
    "total_duration": 1500000000,
    "load_duration": 1000000,
    "prompt_eval_count": 120,
    "prompt_eval_duration": 400000000,
    "eval_count": 31,
    "eval_duration": 1099000000,
}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


def lines(data: bytes) -> list[dict[str, Any]]:
    """Lines without their time."""
    assert b"\n\n" not in data and (not data or data.endswith(b"\n"))
    found = [json.loads(line) for line in data.splitlines()]
    for line in found:
        if "error" not in line:
            assert TIME.fullmatch(line.pop("created_at")) and line.pop("model") == "fake:latest"
    return found


def chat(**fields: Any) -> ReplyBuilder:
    return ChatLines("fake:latest", [], **{"logprobs": False, **fields})


def finished(reason: FinishReason = "stop") -> list[Any]:
    return [ChoiceFinished(reason), Finished((reason,), USAGE, TIMING)]


def test_a_streamed_chat() -> None:
    events = [
        ReasoningDelta("I will look."),
        TextDelta("Looking."),
        ToolCallDelta(0, "call_01", "add", '{"a": 1}'),
        *finished("tool_calls"),
    ]
    reply = chat()
    assert reply.stream_type == "application/x-ndjson" and reply.opening() == reply.end() == b""
    empty = {"role": "assistant", "content": ""}
    call = {"id": "call_01", "function": {"index": 0, "name": "add", "arguments": {"a": 1}}}
    assert lines(b"".join(map(reply.chunks, events))) == [
        {"message": {**empty, "thinking": "I will look."}, "done": False},
        {"message": {**empty, "content": "Looking."}, "done": False},
        {"message": {**empty, "tool_calls": [call]}, "done": False},
        {"message": empty, "done": True, "done_reason": "stop", **LAST},
    ]
    assert lines(reply.keep_alive()) == [{"message": empty, "done": False}]
    (line,) = lines(reply.prefilled(512, 4096))
    prefill = {"completed": 512, "total": 4096}
    assert line == {"message": empty, "done": False, "prefill": prefill}
    assert lines(reply.failure(Failure(500, "no"))) == [{"error": "no"}]


def test_reasoning_that_was_cut_is_told_at_the_end() -> None:
    end = Finished(("stop",), USAGE, TIMING, warnings=("It was cut.",))
    *_, last = lines(b"".join(map(chat().chunks, [ChoiceFinished("stop"), end])))
    assert last["done"] and last["warnings"] == ["It was cut."]


@pytest.mark.parametrize(
    ("reason", "shown"),
    [("stop", "stop"), ("length", "length"), ("tool_calls", "stop"), ("content_filter", "stop")],
)
def test_reasons(reason: FinishReason, shown: str) -> None:
    for kind, piece in ((ChatLines, "message"), (GenerateLines, "response")):
        reply = kind("fake:latest", [], logprobs=False)
        *_, last = lines(b"".join(map(reply.chunks, finished(reason))))
        assert last["done_reason"] == shown and piece in last


def test_a_whole_chat() -> None:
    calls = (ToolCall("c1", "add", '{"a": 1}'), ToolCall("c2", "now", ""))
    choice = Choice("Looking.", "tool_calls", reasoning="Hm.", tool_calls=calls)
    done = Completion((choice,), USAGE, TIMING, model="m")
    (line,) = lines(chat().whole(done))
    assert line["message"] == {
        "role": "assistant",
        "content": "Looking.",
        "thinking": "Hm.",
        "tool_calls": [
            {"id": "c1", "function": {"index": 0, "name": "add", "arguments": {"a": 1}}},
            {"id": "c2", "function": {"index": 1, "name": "now", "arguments": {}}},
        ],
    }
    assert {**line, "message": None} == {
        "message": None,
        "done": True,
        "done_reason": "stop",
    } | LAST


def test_arguments_are_an_object_even_where_the_model_wrote_none() -> None:
    for text in ('{"a": ', "[1]"):
        (line,) = lines(chat().chunks(ToolCallDelta(0, "c", "add", text)))
        (call,) = line["message"]["tool_calls"]
        assert call["function"]["arguments"] == {"arguments": text}


def test_a_text() -> None:
    reply = GenerateLines("fake:latest", [], logprobs=False)
    events = [ReasoningDelta("Hm."), TextDelta("Hello."), *finished()]
    assert lines(b"".join(map(reply.chunks, events))) == [
        {"response": "", "thinking": "Hm.", "done": False},
        {"response": "Hello.", "done": False},
        {"response": "", "done": True, "done_reason": "stop", **LAST},
    ]
    done = Completion((Choice("Hello.", "length"),), USAGE, TIMING, model="m")
    (line,) = lines(reply.whole(done))
    assert line == {"response": "Hello.", "done": True, "done_reason": "length", **LAST}
    for reason in ("load", "unload"):
        expected = {"response": "", "done": True, "done_reason": reason}
        assert lines(reply.resident(reason)) == [expected]  # type: ignore[arg-type]


def test_a_line_is_one_for_every_reader() -> None:
    text = "a\x85b\u2028c\u2029d\x0b\x0c\x1c\x1d\x1e\r\né"
    data = chat().chunks(TextDelta(text)) + chat().failure(Failure(500, text))
    assert len(data.decode().splitlines()) == 2
    line, error = lines(data)
    assert line["message"]["content"] == error["error"] == text


def test_logprobs() -> None:
    entry = TokenLogprob("é", "é".encode(), -0.5, (TokenLogprob("e", b"e", -1.5),))
    (line,) = lines(chat(logprobs=True).chunks(TextDelta("é", logprobs=(entry,))))
    top = {"token": "e", "logprob": -1.5, "bytes": [101]}
    assert line["logprobs"] == [
        {"token": "é", "logprob": -0.5, "bytes": [195, 169], "top_logprobs": [top]}
    ]
