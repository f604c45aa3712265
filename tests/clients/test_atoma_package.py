"""atoma-sdk 0.1.3, the newest that can be installed."""

from __future__ import annotations

import asyncio
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.server import EXAMPLES, KEY, needed

atoma = needed("atoma_sdk")

CHAT: Any = {
    "model": "meta-llama/Llama-3.3-70B-Instruct",
    "messages": [{"role": "user", "content": "Count to 10", "name": "John Doe"}],
    "max_tokens": 40,
    "temperature": 0,
}


@pytest.fixture
def client(url: str) -> Iterator[Any]:
    with atoma.AtomaSDK(bearer_auth=KEY, server_url=url) as client:
        yield client


def text_of(events: Any) -> str:
    return "".join(event.data.choices[0].delta.content or "" for event in events)


def test_create_and_stream(client: Any) -> None:
    whole = client.chat.create(**CHAT, seed=None, stop=None, n=None, response_format=None)
    assert whole.choices[0].message.content and whole.usage.total_tokens
    assert isinstance(whole.created, int)
    with client.chat.create_stream(**CHAT) as events:
        assert text_of(events) == whole.choices[0].message.content


def test_asynchronous(url: str, client: Any) -> None:
    async def talk() -> tuple[str, str]:
        async with atoma.AtomaSDK(bearer_auth=KEY, server_url=url) as other:
            whole = await other.chat.create_async(**CHAT)
            stream = await other.chat.create_stream_async(**CHAT)
            pieces = [event.data.choices[0].delta.content or "" async for event in stream]
        return whole.choices[0].message.content, "".join(pieces)

    whole, streamed = asyncio.run(talk())
    assert whole == streamed == client.chat.create(**CHAT).choices[0].message.content


def test_a_call_has_a_content(client: Any) -> None:
    """Its models want a string there, also where there are tool calls."""
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    choice = {"type": "function", "function": {"name": "f"}}
    fields: Any = CHAT | {"tools": [tool], "tool_choice": choice, "max_tokens": 100}
    reply = client.chat.create(**fields)
    assert reply.choices[0].message.content == ""
    assert reply.choices[0].finish_reason == "tool_calls"


def test_health_and_models(client: Any) -> None:
    assert client.health.health().message
    assert client.models_.models_list().data


@pytest.mark.parametrize(
    ("fields", "status"), [({"temperature": 9}, 400), ({"messages": []}, 400), ({"n": 99}, 400)]
)
def test_errors(url: str, client: Any, fields: dict[str, Any], status: int) -> None:
    for create in (client.chat.create, client.chat.create_stream):
        with pytest.raises(atoma.models.APIError) as caught:
            create(**CHAT | fields)
        assert caught.value.status_code == status and '"error"' in caught.value.body
    with atoma.AtomaSDK(bearer_auth="wrong", server_url=url) as other:
        with pytest.raises(atoma.models.APIError) as caught:
            other.chat.create(**CHAT)
        assert caught.value.status_code == 401


@pytest.mark.parametrize("path", sorted((EXAMPLES / "atoma").glob("*.py")), ids=lambda p: p.stem)
def test_documented_code(
    url: str, path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ATOMASDK_SERVER_URL", url)
    monkeypatch.setenv("ATOMASDK_BEARER_AUTH", KEY)
    runpy.run_path(str(path), run_name="__main__")
    assert "meta-llama/Llama-3.3-70B-Instruct" in capsys.readouterr().out
