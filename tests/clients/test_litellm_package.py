"""litellm, by its prefix for servers that speak the protocol."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.clients.server import KEY, needed

litellm = needed("litellm")

TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "Oslo"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture
def chat(url: str) -> Any:
    return {
        "model": "openai/demo",
        "api_base": f"{url}/v1",
        "api_key": KEY,
        "messages": [{"role": "user", "content": "Count to 10"}],
        "max_tokens": 40,
        "temperature": 0,
    }


def test_whole_and_stream(chat: Any) -> None:
    reply = litellm.completion(**chat)
    assert reply.choices[0].message.content and reply.usage.total_tokens
    chunks = list(litellm.completion(**chat, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == reply.choices[0].message.content

    async def talk() -> str:
        return (await litellm.acompletion(**chat)).choices[0].message.content

    assert asyncio.run(talk()) == text


def test_tools(chat: Any) -> None:
    fields = chat | {"tools": [TOOL], "tool_choice": "required", "max_tokens": 200}
    call = litellm.completion(**fields).choices[0].message.tool_calls[0]
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Oslo")
    chunks = litellm.completion(**fields, stream=True)
    calls = [c for chunk in chunks for c in chunk.choices[0].delta.tool_calls or ()]
    assert "city" in "".join(c.function.arguments or "" for c in calls)


def test_errors(chat: Any) -> None:
    with pytest.raises(litellm.BadRequestError, match="temperature"):
        litellm.completion(**chat | {"temperature": 9})
    with pytest.raises(litellm.AuthenticationError):
        litellm.completion(**chat | {"api_key": "wrong"})


@pytest.mark.parametrize("adapter", ["cohere", "jina_ai", "infinity", "hosted_vllm"])
def test_rankings_through_each_adapter(adapter: str, url: str) -> None:
    documents = ["a fox", "a dog", "the sea"]
    # The adapter for Infinity takes documents as strings, on the path on which others take objects.
    documented = adapter != "infinity"
    found = litellm.rerank(
        model=f"{adapter}/demo",
        query="fox",
        documents=documents,
        top_n=2,
        return_documents=documented,
        api_base=url,
        api_key=KEY,
    )
    scores = [each["relevance_score"] for each in found.results]
    assert len(scores) == 2 and scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    for each in found.results if documented else ():
        assert each["document"]["text"] == documents[each["index"]]


def test_vectors(url: str) -> None:
    with pytest.raises(litellm.BadRequestError, match="embed-any"):
        litellm.embedding(
            model="openai/demo", input=["a"], api_base=f"{url}/v1", api_key=KEY, num_retries=0
        )
