"""cerebras-cloud-sdk, which takes every deviation for an error with strict validation."""

from __future__ import annotations

import asyncio
import json
import runpy
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.server import EXAMPLES, KEY, needed, started

sdk = needed("cerebras.cloud.sdk")

CHAT: Any = {
    "model": "llama3.1-70b",
    "messages": [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "Count to 10"},
    ],
    "max_tokens": 40,
    "temperature": 0,
}
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}},
            "required": ["unit"],
            "additionalProperties": False,
        },
    },
}
FORCED: Any = {**CHAT, "tools": [TOOL], "tool_choice": "required", "max_tokens": 200}


@pytest.fixture
def client(url: str) -> Iterator[Any]:
    with sdk.Cerebras(base_url=url, api_key=KEY, _strict_response_validation=True) as client:
        yield client


def text_of(chunks: Any) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def test_whole(client: Any) -> None:
    reply = client.chat.completions.create(
        **CHAT, cf_ray="8b1f", x_amz_cf_id="abc", x_delay_time=0.5, service_tier="auto",
        min_tokens=2, reasoning_effort="low", user="me", logprobs=True, top_logprobs=2,
    )  # fmt: skip
    assert type(reply).__name__ == "ChatCompletionResponse" and reply.model == "llama3.1-70b"
    assert reply.choices[0].message.content and reply.system_fingerprint
    assert len(reply.choices[0].logprobs.content[0].top_logprobs) == 2
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    times = reply.time_info
    assert times.total_time >= times.completion_time > 0
    assert times.queue_time >= 0 and times.prompt_time >= 0


def test_several(client: Any) -> None:
    reply = client.chat.completions.create(**CHAT | {"temperature": 1.0}, n=3, seed=1)
    assert [choice.index for choice in reply.choices] == [0, 1, 2]


def test_stream(client: Any) -> None:
    whole = client.chat.completions.create(**CHAT).choices[0].message.content
    chunks = list(client.chat.completions.create(**CHAT, stream=True))
    assert {type(chunk).__name__ for chunk in chunks} == {"ChatChunkResponse"}
    assert text_of(chunks) == whole
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")
    assert chunks[-1].usage.completion_tokens and chunks[-1].time_info.total_time > 0


def test_asynchronous(url: str, client: Any) -> None:
    async def talk() -> tuple[str, str]:
        async with sdk.AsyncCerebras(
            base_url=url, api_key=KEY, _strict_response_validation=True
        ) as other:
            whole = await other.chat.completions.create(**CHAT)
            stream = await other.chat.completions.create(**CHAT, stream=True)
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
        return whole.choices[0].message.content, "".join(pieces)

    whole, streamed = asyncio.run(talk())
    assert whole == streamed == client.chat.completions.create(**CHAT).choices[0].message.content


def test_raw_and_streamed_responses(client: Any) -> None:
    raw = client.chat.completions.with_raw_response.create(**CHAT)
    assert raw.headers["x-request-id"] and raw.parse().choices[0].message.content
    with client.chat.completions.with_streaming_response.create(**CHAT, stream=True) as response:
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"


def test_tools(client: Any) -> None:
    reply = client.chat.completions.create(**FORCED)
    assert reply.choices[0].finish_reason == "tool_calls"
    call = reply.choices[0].message.tool_calls[0]
    assert json.loads(call.function.arguments)["unit"] in ("celsius", "fahrenheit")
    chunks = list(client.chat.completions.create(**FORCED, stream=True))
    assert {type(chunk).__name__ for chunk in chunks} == {"ChatChunkResponse"}
    calls = [c for chunk in chunks for c in chunk.choices[0].delta.tool_calls or ()]
    assert json.loads(calls[0].function.arguments)["unit"] in ("celsius", "fahrenheit")
    turns = [
        reply.choices[0].message.model_dump(exclude_none=True),
        *(
            {"role": "tool", "tool_call_id": each.id, "content": "18"}
            for each in reply.choices[0].message.tool_calls
        ),
    ]
    again = client.chat.completions.create(**CHAT | {"messages": [*CHAT["messages"], *turns]})
    assert again.choices[0].finish_reason


def test_schema(client: Any) -> None:
    schema = {"type": "object", "properties": {"age": {"enum": [1, 2]}}, "required": ["age"]}
    form = {"name": "x", "strict": True, "schema": schema | {"additionalProperties": False}}
    reply = client.chat.completions.create(
        **CHAT | {"temperature": 1.0, "max_tokens": 300},
        seed=1,
        response_format={"type": "json_schema", "json_schema": form},
    )
    assert json.loads(reply.choices[0].message.content)["age"] in (1, 2)


def test_legacy_completions(client: Any) -> None:
    fields: Any = {"model": "llama3.1-70b", "prompt": "One, two,", "max_tokens": 8, "seed": 1}
    whole = client.completions.create(**fields, logprobs=1, n=2)
    assert whole.object == "text_completion" and len(whole.choices) == 2
    assert whole.usage.total_tokens and whole.time_info.total_time > 0
    chunks = list(client.completions.create(**fields, stream=True))
    assert "".join(chunk.choices[0].text or "" for chunk in chunks) == whole.choices[0].text


def test_models(client: Any) -> None:
    first = client.models.list().data[0]
    assert client.models.retrieve(first.id).id == first.id and first.owned_by == "budmlx"
    assert client.models.retrieve("meta-llama/Llama-3.3-70B-Instruct").id.endswith("Instruct")


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"temperature": 9}, "BadRequestError"),
        ({"extra_headers": {"Authorization": "Bearer wrong"}}, "AuthenticationError"),
        ({"extra_headers": {"Host": "evil.example"}}, "PermissionDeniedError"),
    ],
)
def test_errors(client: Any, fields: dict[str, Any], error: str) -> None:
    for stream in (False, True):
        with pytest.raises(getattr(sdk, error)) as caught:
            client.chat.completions.create(**CHAT | fields, stream=stream)
        assert caught.value.body["message"]


def test_a_timeout_leaves_nothing_running(client: Any) -> None:
    long = CHAT | {"max_tokens": 100_000, "min_tokens": -1}
    impatient = client.with_options(timeout=0.2, max_retries=2)
    with pytest.raises(sdk.APITimeoutError):
        impatient.chat.completions.create(**long)
    begun = time.monotonic()
    client.with_options(timeout=60).chat.completions.create(**CHAT)
    assert time.monotonic() - begun < 60


def test_an_error_amid_a_stream_has_the_class_of_its_status() -> None:
    with (
        started(BUDMLX_DRAIN_SECONDS="0") as (url, process),
        sdk.Cerebras(base_url=url, api_key=KEY) as client,
    ):
        endless = CHAT | {"max_tokens": 100_000, "min_tokens": -1}
        stream = client.chat.completions.create(**endless, stream=True)
        assert next(stream).choices
        process.terminate()
        with pytest.raises(sdk.InternalServerError, match="shutting down") as caught:
            list(stream)
    assert caught.value.body["type"] == "server_error"


@pytest.mark.parametrize("path", sorted((EXAMPLES / "cerebras").glob("*.py")), ids=lambda p: p.stem)
def test_documented_code(
    url: str, path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CEREBRAS_BASE_URL", url)
    runpy.run_path(str(path), run_name="__main__")
    expected = {
        "function_calling": "Model wants to call get_weather", "several": "Option 3: ",
        "basic": "Used ", "streaming": "Story: ", "asynchronous": "",
    }[path.stem]  # fmt: skip
    shown = capsys.readouterr().out
    assert expected in shown and shown.strip()
