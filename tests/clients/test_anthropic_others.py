"""Packages that speak Anthropic's protocol: langchain-anthropic, and litellm with `anthropic/`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.agents import PINGS, serving_scripts
from tests.clients.server import KEY, needed

langchain = needed("langchain_anthropic")
core = needed("langchain_core.messages")
litellm = needed("litellm")


@pytest.fixture(scope="module")
def agents() -> Iterator[str]:
    with serving_scripts(**PINGS) as url:
        yield url


def look(place: str) -> str:
    """Look somewhere."""
    return f"A cat in the {place}."


def test_langchain(agents: str) -> None:
    chat = langchain.ChatAnthropic(
        model="agent", base_url=agents, api_key=KEY, max_tokens=400, max_retries=0
    )
    whole = chat.invoke("Hi")
    assert whole.text == "Hello."
    assert whole.usage_metadata["input_tokens"] > 3
    chunks = list(chat.stream("Hi"))
    assert "".join(chunk.text for chunk in chunks) == "Hello."
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    assert total.usage_metadata["input_tokens"] == whole.usage_metadata["input_tokens"]
    called = chat.bind_tools([look]).invoke("script look; What is there?")
    [call] = called.tool_calls
    assert (call["name"], call["args"]) == ("look", {"place": "garden"})
    history = [
        core.HumanMessage("script look; What is there?"),
        called,
        core.ToolMessage("A cat.", tool_call_id=call["id"]),
    ]
    assert chat.bind_tools([look]).invoke(history).text == "There is a cat."


def test_langchain_forms(agents: str) -> None:
    pydantic = needed("pydantic")

    class Titled(pydantic.BaseModel):  # type: ignore[misc, name-defined]
        """A title."""

        title: str
        count: int

    chat = langchain.ChatAnthropic(model="agent", base_url=agents, api_key=KEY, max_tokens=400)
    found = chat.with_structured_output(Titled, method="json_schema").invoke("script json; Title?")
    assert (found.title, found.count) == ("Cats", 2)


@pytest.mark.parametrize("stream", [False, True])
def test_litellm(agents: str, stream: bool) -> None:
    tool = {
        "type": "function",
        "function": {
            "name": "look",
            "description": "Look somewhere.",
            "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
        },
    }
    options: Any = {"model": "anthropic/agent", "api_base": agents, "api_key": KEY, "tools": [tool]}
    messages: list[Any] = [{"role": "user", "content": "script look; What is there?"}]

    def reply_to(messages: list[Any]) -> Any:
        found = litellm.completion(**options, messages=messages, stream=stream)
        if stream:
            found = litellm.stream_chunk_builder(list(found), messages=messages)
        return found.choices[0]

    first = reply_to(messages)
    [call] = first.message.tool_calls
    assert (call.function.name, first.finish_reason) == ("look", "tool_calls")
    messages += [
        first.message.model_dump(),
        {"role": "tool", "tool_call_id": call.id, "content": "A cat."},
    ]
    assert reply_to(messages).message.content == "There is a cat."
