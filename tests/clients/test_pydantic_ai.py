"""pydantic-ai in the three protocols that it speaks to servers of one's own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.agents import PINGS, serving_scripts
from tests.clients.server import KEY, needed

ai = needed("pydantic_ai")
openai_models = needed("pydantic_ai.models.openai")
anthropic_models = needed("pydantic_ai.models.anthropic")
openai_provider = needed("pydantic_ai.providers.openai")
anthropic_provider = needed("pydantic_ai.providers.anthropic")


@pytest.fixture(scope="module")
def agents() -> Iterator[str]:
    with serving_scripts(**PINGS) as url:
        yield url


@pytest.fixture(params=["chat", "responses", "messages"])
def agent(agents: str, request: pytest.FixtureRequest) -> Any:
    """An agent with a tool, by each protocol."""
    model: Any
    if request.param == "messages":
        provider = anthropic_provider.AnthropicProvider(base_url=agents, api_key=KEY)
        model = anthropic_models.AnthropicModel("agent", provider=provider)
    else:
        kinds = {
            "chat": openai_models.OpenAIChatModel,
            "responses": openai_models.OpenAIResponsesModel,
        }
        provider = openai_provider.OpenAIProvider(base_url=f"{agents}/v1", api_key=KEY)
        model = kinds[request.param]("agent", provider=provider)
    agent = ai.Agent(model, model_settings={"max_tokens": 400})

    @agent.tool_plain
    def look(place: str) -> str:
        """Look somewhere."""
        assert place == "garden"
        return "A cat."

    return agent


def test_a_call(agent: Any) -> None:
    done = agent.run_sync("script look; What is there?")
    assert done.output == "There is a cat."
    usage = done.usage() if callable(done.usage) else done.usage
    assert usage.requests == 2 and usage.tool_calls == 1
    assert usage.input_tokens > 50 and usage.output_tokens > 3


async def _streamed(agent: Any) -> str:
    async with agent.run_stream("script think; What is there?") as running:
        pieces = [piece async for piece in running.stream_text(delta=True)]
    return "".join(pieces)


def test_a_stream(agent: Any) -> None:
    assert asyncio.run(_streamed(agent)).strip() == "A dog."
