"""langchain-openai, around a server of its own address."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from tests.clients.server import KEY, needed

langchain_openai = needed("langchain_openai")


class Pet(BaseModel):
    """An animal that lives with people."""

    kind: Literal["cat", "dog"]
    age: Literal[1, 2, 3]


def get_weather(city: Literal["Paris", "Oslo"]) -> str:
    """Weather of a city."""
    return f"sunny in {city}"


@pytest.fixture
def chat(url: str) -> Any:
    return langchain_openai.ChatOpenAI(
        base_url=f"{url}/v1", api_key=KEY, model="demo", temperature=0, max_tokens=200
    )


def test_invoke_and_stream(chat: Any) -> None:
    reply = chat.invoke("Count to 10")
    assert reply.content and reply.response_metadata["finish_reason"] in ("stop", "length")
    assert reply.usage_metadata["total_tokens"] > 5
    pieces = list(chat.stream("Count to 10"))
    assert "".join(piece.content for piece in pieces) == reply.content
    whole = pieces[0]
    for piece in pieces[1:]:
        whole += piece
    # It adds up what every chunk says of the usage.
    assert whole.usage_metadata["total_tokens"] == reply.usage_metadata["total_tokens"]
    several = chat.batch(["Count to 3", "Count to 3"])
    assert several[0].content == several[1].content

    async def talk() -> str:
        return (await chat.ainvoke("Count to 10")).content

    assert asyncio.run(talk()) == reply.content


def test_tools(chat: Any) -> None:
    bound = chat.bind_tools([get_weather], tool_choice="get_weather")
    reply = bound.invoke("What is the weather in Paris?")
    assert reply.tool_calls[0]["args"]["city"] in ("Paris", "Oslo")
    whole: Any = None
    for piece in bound.stream("What is the weather in Paris?"):
        whole = piece if whole is None else whole + piece
    assert whole.tool_calls[0]["args"]["city"] in ("Paris", "Oslo")


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(chat: Any, method: str) -> None:
    pet = chat.with_structured_output(Pet, method=method).invoke("A dog of 2 years.")
    assert isinstance(pet, Pet)


def test_errors(chat: Any) -> None:
    with pytest.raises(Exception, match="temperature") as caught:
        chat.model_copy(update={"temperature": 9}).invoke("Hi")
    assert getattr(caught.value, "status_code", None) == 400
