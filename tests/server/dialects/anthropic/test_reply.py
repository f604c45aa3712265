"""The encoder reproduces the replies that all clients accept, event for event."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from budmlx.engine.reply.completion import completion
from budmlx.errors import ContextLengthError, InvalidRequestError
from budmlx.server.dialects.anthropic.errors import THREAD_CODE, ErrorOfMessages, MessagesError
from budmlx.server.dialects.anthropic.reply import MessageReply
from budmlx.server.errors import Failure, failure_of
from budmlx.types import (
    ChoiceFinished,
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    Timing,
    ToolCallDelta,
    Usage,
)
from tests.server.dialects.anthropic.captures import events_of, reply

TIMING = Timing(0, 0, 0)
USAGE = Usage(120, 31, cached_tokens=100)
BEGUN = Usage(120, 1, cached_tokens=100)


def encoder(
    max_tokens: int = 100, usage: Callable[[], Usage | None] = lambda: BEGUN
) -> MessageReply:
    made = MessageReply("local-model", max_tokens, "req_01", [], lambda text: "c2ln", usage)
    made.id = "msg_01"
    return made


def finished(reason: FinishReason, usage: Usage = USAGE, stop: str = "") -> list[Event]:
    return [ChoiceFinished(reason, stop=stop), Finished((reason,), usage, TIMING)]


def stream(made: MessageReply, events: list[Event]) -> list[dict[str, Any]]:
    data = made.opening() + made.keep_alive()
    data += b"".join(made.chunks(event) for event in events) + made.end()
    return events_of(data)


def test_the_stream_that_all_clients_accept() -> None:
    events: list[Event] = [
        ReasoningDelta("I will look."),
        TextDelta("Looking."),
        ToolCallDelta(0, "toolu_01", "Bash", '{"command": "ls"}'),
        *finished("tool_calls"),
    ]
    assert stream(encoder(), events) == reply()["stream"]


def test_the_message_starts_when_its_counts_are_known() -> None:
    known: list[Usage] = []
    made = encoder(usage=lambda: known[0] if known else None)
    early = made.opening() + made.keep_alive() + made.prefilled(512, 2048)
    assert [event["data"] for event in events_of(early)] == [
        {"type": "ping"},
        {"type": "ping"},
        {"type": "ping", "prefill": {"completed": 512, "total": 2048}},
    ]
    known.append(BEGUN)
    begun = events_of(made.chunks(TextDelta("Hello.")) + made.chunks(TextDelta(" You.")))
    assert [event["event"] for event in begun] == [
        "message_start", "content_block_start", "content_block_delta", "content_block_delta",
    ]  # fmt: skip
    assert begun[0] == reply()["stream"][0]


def test_reasoning_that_was_cut_is_told_at_the_end() -> None:
    end = Finished(("stop",), USAGE, TIMING, warnings=("It was cut.",))
    for events, warnings in (([end], ["It was cut."]), (finished("stop")[1:], None)):
        told = stream(encoder(), [ChoiceFinished("stop"), *events])
        assert told[-2]["event"] == "message_delta"
        assert told[-2]["data"].get("warnings") == warnings


def test_the_whole_reply_that_all_clients_accept() -> None:
    usage = Usage(120, 3, cached_tokens=100)
    done = completion("m", (), [TextDelta("Hello."), *finished("stop", usage)])
    assert json.loads(encoder().whole(done)) == reply()["json"]


def test_whole_and_streamed_blocks_are_the_same() -> None:
    events: list[Event] = [
        ReasoningDelta("One. "),
        ReasoningDelta("Two."),
        TextDelta("Text"),
        TextDelta(" goes on."),
        ToolCallDelta(0, "a", "f", ""),
        ToolCallDelta(0, "", "", '{"x": '),
        ToolCallDelta(0, "", "", "1}"),
        ToolCallDelta(1, "b", "g", "{}"),
        *finished("tool_calls"),
    ]
    whole = json.loads(encoder().whole(completion("m", (), events)))
    assert [block["type"] for block in whole["content"]] == [
        "thinking", "text", "tool_use", "tool_use",
    ]  # fmt: skip
    blocks: list[Any] = []
    for event in stream(encoder(), events):
        data = event["data"]
        if event["event"] == "content_block_start":
            assert data["index"] == len(blocks)
            blocks.append({**data["content_block"]})
            arguments = ""
        elif event["event"] == "content_block_delta":
            delta = data["delta"]
            if delta["type"] == "input_json_delta":
                arguments += delta["partial_json"]
                continue
            [key] = delta.keys() - {"type"}
            blocks[data["index"]][key] += delta[key]
        elif event["event"] == "content_block_stop" and blocks[-1]["type"] == "tool_use":
            assert blocks[-1]["input"] == {}
            blocks[-1]["input"] = json.loads(arguments)
    assert blocks == whole["content"]


@pytest.mark.parametrize(
    ("reason", "stop", "tokens", "expected"),
    [
        ("stop", "", 31, ("end_turn", None)),
        ("stop", "</block>", 31, ("stop_sequence", "</block>")),
        ("length", "", 31, ("max_tokens", None)),
        ("length", "", 30, ("model_context_window_exceeded", None)),
        ("tool_calls", "", 31, ("tool_use", None)),
        ("content_filter", "", 31, ("refusal", None)),
    ],
)
def test_stop_reasons(reason: FinishReason, stop: str, tokens: int, expected: Any) -> None:
    made = encoder(max_tokens=31)
    events = finished(reason, Usage(9, tokens), stop)
    whole = json.loads(made.whole(completion("m", (), events)))
    assert (whole["stop_reason"], whole["stop_sequence"]) == expected
    assert whole["content"] == []
    [delta] = [e["data"] for e in stream(made, events) if e["event"] == "message_delta"]
    assert tuple(delta["delta"].values()) == expected


def test_counts_are_disjoint() -> None:
    usage = Usage(120, 7, cached_tokens=60, reasoning_tokens=4, written_tokens=59)
    found = json.loads(encoder().whole(completion("m", (), finished("stop", usage))))["usage"]
    assert found == {
        "input_tokens": 1,
        "cache_read_input_tokens": 60,
        "cache_creation_input_tokens": 59,
        "output_tokens": 7,
        "output_tokens_details": {"thinking_tokens": 4},
    }


def test_errors_in_the_wording_that_clients_know() -> None:
    too_long = ContextLengthError("The prompt is long.", param="messages")
    too_long.tokens, too_long.limit = 40000, 32769
    threads = InvalidRequestError("Threads are not kept here.", code=THREAD_CODE)
    for exc, name in ((too_long, "error"), (threads, "error_thread")):
        body = MessagesError(ErrorOfMessages.of(failure_of(exc)), "req_01")
        assert json.loads(msgspec.json.encode(body)) == reply()[name]["body"]
    restarting = Failure(503, "The engine is restarting.")
    assert events_of(encoder().failure(restarting)) == [reply()["stream_error_event"]]
