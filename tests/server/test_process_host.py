"""The server over the host that `serve` uses: a core process answers like a core thread."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from budmlx import Engine
from budmlx.config import Config
from budmlx.engine.models.models import Models
from budmlx.errors import ContextLengthError
from budmlx.server.app import HttpServer
from tests.models import tiny_model_dir
from tests.server.conftest import ALIASES
from tests.server.tools import body, check_error, events, exchange, post

SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Oslo"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}
FORMS: dict[str, Any] = {
    "schema": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
    "bad schema": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no"}}},
    "regex": {"type": "regex", "regex": "(?<=a)b"},
    "one": {"type": "choice", "choice": ["one two three"]},
}
LONG: dict[str, Any] = {"max_tokens": 100, "temperature": 1.5, "seed": 3}


@pytest.fixture(scope="module")
def process_engine() -> Iterator[Engine]:
    # The limit holds about half of the model's context.
    options: dict[str, Any] = {"prefix_cache": "0", "memory_limit": 64 * 2**20}
    with Engine.load(tiny_model_dir(scale=2.0), engine_host="process", **options) as engine:
        yield engine


@pytest.fixture
async def process_server(process_engine: Engine) -> AsyncIterator[HttpServer]:
    config = Config(port=0, drain_seconds=0)
    server = await HttpServer.start(Models.of(process_engine, ALIASES), config)
    yield server
    await server.drain()


async def reply(server: HttpServer, fields: dict[str, Any]) -> Any:
    """What the server answers, without what differs between two equal requests."""
    answer = await exchange(server, post(json.dumps(body(**fields)).encode()))
    assert answer.status == 200, answer.content
    if fields.get("stream"):
        *chunks, done = events(answer.content)
        assert done == "[DONE]"
        deltas = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]
        return "".join(deltas), chunks[-1]["choices"][0]["finish_reason"], chunks[-1]["usage"]
    whole = answer.json
    for choice in whole["choices"]:
        for call in choice["message"].get("tool_calls", ()):
            call.pop("id")
    return whole["choices"], whole["usage"]


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 20},
        {"stream": True},
        {"logprobs": True, "top_logprobs": 2},
        {"n": 2, "temperature": 1.0, "seed": 5},
        {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False, **LONG},
        {"response_format": FORMS["schema"], **LONG},
        {"response_format": FORMS["one"], "stop": ["two"], **LONG},
    ],
    ids=lambda fields: " ".join(fields),
)
async def test_both_hosts_answer_alike(
    server: HttpServer, process_server: HttpServer, fields: dict[str, Any]
) -> None:
    answered = await reply(process_server, fields)
    assert answered == await reply(server, fields)
    if "stop" in fields:
        ([choice], _) = answered
        assert (choice["message"]["content"], choice["finish_reason"]) == ("one ", "stop")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("form", "param"),
    [
        ("bad schema", "response_format.json_schema.schema"),
        ("regex", "response_format.regex"),
    ],
)
async def test_a_form_that_cannot_be_used_is_named(
    process_server: HttpServer, form: str, param: str, stream: bool
) -> None:
    raw = post(json.dumps(body(response_format=FORMS[form], stream=stream)).encode())
    answer = await exchange(process_server, raw)
    check_error(answer, 400, param=param, code="invalid_grammar")


@pytest.mark.parametrize("stream", [False, True])
async def test_what_memory_can_never_hold_is_refused(
    process_server: HttpServer, stream: bool
) -> None:
    text = "a b " * 1000
    chat = post(json.dumps(body(text, stream=stream)).encode())
    raw = {"model": "demo", "prompt": text, "stream": stream}
    code = "context_length_exceeded"
    answer = await exchange(process_server, chat)
    error = check_error(answer, 400, param="messages", code=code)
    assert "memory holds only" in error["message"] and "Retry-After" not in answer.headers
    answer = await exchange(process_server, post(json.dumps(raw).encode(), "/v1/completions"))
    check_error(answer, 400, param="prompt", code=code)


def test_what_memory_can_never_hold_raises(process_engine: Engine) -> None:
    with pytest.raises(ContextLengthError) as caught:
        process_engine.complete([5] * 4000)
    assert caught.value.param == "prompt"
