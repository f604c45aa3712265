"""The client of the documentation, over HTTP and around an engine of the same process."""

from __future__ import annotations

import asyncio
import doctest
import gc
import json
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import budmlx.client
from budmlx import Engine
from budmlx.client import AsyncBudClient, BudAPIError, BudClient, RateLimitError
from budmlx.client.parameters import Parameters
from budmlx.config import Config
from budmlx.engine.models.models import Models
from budmlx.server.app import HttpServer
from budmlx.server.dialects.openai.chat import ChatRequest
from tests.models import tiny_model_dir
from tests.server.faults import HEADER, faulty_server

USER = {"role": "user", "content": "What is AI?"}
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"unit": {"enum": ["celsius", "fahrenheit"]}},
            "required": ["unit"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load(tiny_model_dir(scale=2.0)) as engine:
        yield engine


@pytest.fixture
def client(engine: Engine) -> Iterator[BudClient]:
    with BudClient(engine=engine) as client:
        yield client


@pytest.fixture
async def server(engine: Engine) -> AsyncIterator[HttpServer]:
    config = Config(port=0, drain_seconds=0, api_keys=("the-key",))
    server = await HttpServer.start(Models.of(engine, ("llama-3.2-1b",)), config)
    yield server
    await server.drain()


def test_docstring_examples(engine: Engine) -> None:
    result = doctest.testmod(budmlx.client, extraglobs={"engine": engine})
    assert result.attempted == 1 and result.failed == 0


def test_whole_reply(engine: Engine, client: BudClient) -> None:
    response = client.chat.completions.create(model="llama-3.2-1b", messages=[USER], **GREEDY)
    expected = engine.chat([USER], **GREEDY)
    assert response.id.startswith("chatcmpl-") and response.model == "llama-3.2-1b"
    assert response.choices[0].message.content == expected.text
    assert response.choices[0].finish_reason == expected.finish_reason
    assert response.usage is not None
    assert response.usage.total_tokens == expected.usage.total_tokens
    assert response.cached is False and response.warnings == []
    history = [USER, response.choices[0].message, {"role": "user", "content": "Go on."}]
    assert client.chat.completions.create(model="x", messages=history, **GREEDY).choices


def test_stream(engine: Engine, client: BudClient) -> None:
    stream = client.chat.completions.create(model="x", messages=[USER], stream=True, **GREEDY)
    text, reasons = "", []
    for chunk in stream:
        text += chunk.choices[0].delta.content or ""
        reasons.append(chunk.choices[0].finish_reason)
    expected = engine.chat([USER], **GREEDY)
    assert text == expected.text
    assert reasons[-1] == expected.finish_reason and set(reasons[:-1]) == {None}


def test_tool_calls_have_attributes(client: BudClient) -> None:
    fields: dict[str, Any] = {"tools": [TOOL], "tool_choice": "required", "max_tokens": 300}
    response = client.chat.completions.create(
        model="x", messages=[USER], parallel_tool_calls=False, **fields
    )
    (call,) = response.choices[0].message.tool_calls or []
    assert call.function.name == "get_weather"  # type: ignore[union-attr]
    assert "unit" in json.loads(call.function.arguments)  # type: ignore[union-attr]
    assert response.choices[0].finish_reason == "tool_calls"


def test_the_second_reply_is_cached(client: BudClient) -> None:
    for expected in (False, True):
        response = client.chat.completions.create(
            model="x", messages=[USER], cache=True, seed=77, max_tokens=4
        )
        assert response.cached is expected
    stream = client.chat.completions.create(
        model="x", messages=[USER], cache=True, seed=77, max_tokens=4, stream=True
    )
    assert [chunk.cached for chunk in stream][-1] is True


def test_every_parameter_can_be_given(client: BudClient) -> None:
    shared = {"model", "messages", "stream"}
    assert Parameters.__annotations__.keys() == ChatRequest.model_fields.keys() - shared | {"user"}
    response = client.chat.completions.create(
        model="x",
        messages=[USER],
        frequency_penalty=0.5,
        presence_penalty=0.3,
        top_p=0.9,
        stop=["5", "\n\n"],
        logit_bias={"2435": -10, "1234": 5},
        max_tokens=4,
        n=None,
        unheard_of=1,  # type: ignore[call-arg]
    )
    assert any("unheard_of" in warning for warning in response.warnings)


def test_errors_say_what_was_wrong(client: BudClient) -> None:
    with pytest.raises(BudAPIError) as caught:
        client.chat.completions.create(model="x", messages=[USER], temperature=9)
    error = caught.value
    assert not isinstance(error, RateLimitError)
    assert (error.status_code, error.param) == (400, "temperature")
    assert str(error) == error.message and error.message.startswith("`temperature`")
    assert error.request_id


def test_a_stream_that_fails_raises_when_it_is_read() -> None:
    with Engine.load(tiny_model_dir(scale=2.0)) as engine, BudClient(engine=engine) as client:
        stream = client.chat.completions.create(
            model="x", messages=[USER], stream=True, max_tokens=8000, ignore_eos=True
        )
        next(stream)
        engine.close()
        with pytest.raises(BudAPIError) as caught:
            list(stream)
    assert caught.value.status_code is None and len(caught.value.message) > 10


def test_leaving_a_stream_ends_the_generation(engine: Engine, client: BudClient) -> None:
    with client.chat.completions.create(
        model="x", messages=[USER], stream=True, max_tokens=8000, ignore_eos=True
    ) as stream:
        next(stream)
        assert engine.status().running == 1
    deadline = time.monotonic() + 30
    while engine.status().running and time.monotonic() < deadline:
        time.sleep(0.01)
    assert engine.status().running == 0


@pytest.mark.parametrize(
    ("asked", "status"), [("429 7", 429), ("403", 403), ("500", 500), ("503 3", 503)]
)
async def test_statuses(engine: Engine, asked: str, status: int) -> None:
    async with (
        faulty_server(engine) as url,
        AsyncBudClient(base_url=url, max_retries=0, headers={HEADER: asked}) as client,
    ):
        with pytest.raises(BudAPIError) as caught:
            await client.chat.completions.create(model="demo", messages=[USER])
    assert caught.value.status_code == status and len(caught.value.message) > 5
    assert isinstance(caught.value, RateLimitError) is (status == 429)
    assert getattr(caught.value, "retry_after", None) == (7 if status == 429 else None)


async def test_the_address_and_the_key(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for base_url in (server.url, f"{server.url}/", f"{server.url}/v1", f"{server.url}/v1/"):
        async with AsyncBudClient(api_key="the-key", base_url=base_url) as client:
            fields: dict[str, Any] = {"model": "llama-3.2-1b", "messages": [USER], "max_tokens": 2}
            assert (await client.chat.completions.create(**fields)).choices
            stream = await client.chat.completions.create(stream=True, **fields)
            assert [chunk async for chunk in stream]
    async with AsyncBudClient(api_key="other", base_url=server.url) as client:
        with pytest.raises(BudAPIError) as caught:
            await client.chat.completions.create(model="llama-3.2-1b", messages=[USER])
    assert caught.value.status_code == 401
    monkeypatch.setenv("BUD_BASE_URL", server.url)
    monkeypatch.setenv("BUD_API_KEY", "the-key")

    def talk() -> str:
        with BudClient() as client:
            return client.chat.completions.create(**fields).model

    assert await asyncio.to_thread(talk) == "llama-3.2-1b"


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BUD_BASE_URL", raising=False)
    assert str(BudClient()._client.base_url) == "http://127.0.0.1:8080/v1/"
    client = BudClient(base_url="http://127.0.0.1:9", max_retries=0)
    with client, pytest.raises(BudAPIError) as caught:
        client.chat.completions.create(model="x", messages=[USER])
    assert caught.value.status_code is None


async def test_an_engine_for_asyncio(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("BUDMLX_API_KEYS", "other")
    async with AsyncBudClient(engine=engine) as client:
        replies = await asyncio.gather(
            *(
                client.chat.completions.create(model="x", messages=[USER], **GREEDY)
                for _ in range(4)
            )
        )
    expected = engine.chat([USER], **GREEDY).text
    assert {reply.choices[0].message.content for reply in replies} == {expected}


def test_an_engine_outlives_its_clients(engine: Engine) -> None:
    def servers() -> int:
        return sum(t.name == "budmlx-embedded-server" for t in threading.enumerate())

    before = servers()
    client = BudClient(engine=engine)
    assert servers() == before + 1
    client.close()
    client.close()
    assert servers() == before
    with pytest.raises(BudAPIError):
        client.chat.completions.create(model="x", messages=[USER])
    forgotten = BudClient(engine=engine)
    thread = forgotten._destination.server._thread  # type: ignore[union-attr]
    del forgotten
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()
    assert engine.chat("Hi", max_tokens=1).choices
    with pytest.raises(ValueError, match="either"):
        BudClient(engine=engine, base_url="http://127.0.0.1:9")


def test_the_key_of_an_engine_is_needed(engine: Engine, client: BudClient) -> None:
    address = client._destination.url
    other = BudClient(api_key="guess", base_url=address, max_retries=0)
    with other, pytest.raises(BudAPIError) as caught:
        other.chat.completions.create(model="x", messages=[USER])
    assert caught.value.status_code == 401


def test_talking_to_a_server_loads_none() -> None:
    code = (
        "import sys, budmlx.client\n"
        "loaded = {n.partition('.')[2].partition('.')[0] for n in sys.modules if 'budmlx.' in n}\n"
        "assert not loaded & {'server', 'engine', 'core'}, loaded\n"
        "assert not {'mlx', 'tokenizers', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
