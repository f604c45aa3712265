"""The openai package over the Responses protocol, and openai-agents, which speaks it by default."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from tests.clients.agents import serving_scripts
from tests.clients.server import KEY, needed

openai = needed("openai")
agents = needed("agents")

LOOK: Any = {
    "type": "function",
    "name": "look",
    "description": "Look somewhere.",
    "strict": False,
    "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
}


class Title(BaseModel):
    title: str
    count: int


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    with serving_scripts() as url:
        yield f"{url}/v1"


@pytest.fixture
def sdk(base: str) -> Iterator[Any]:
    with openai.OpenAI(base_url=base, api_key=KEY, max_retries=0) as sdk:
        yield sdk


def test_whole_streamed_and_parsed(sdk: Any) -> None:
    whole = sdk.responses.create(model="agent", input="script think;")
    assert [item.type for item in whole.output] == ["reasoning", "message"]
    assert whole.output_text == "A dog."
    with sdk.responses.stream(model="agent", input="script think;") as stream:
        text = "".join(e.delta for e in stream if e.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert text == final.output_text == "A dog."
    events = list(sdk.responses.create(model="agent", input="Hi", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created" and events[-1].type == "response.completed"
    parsed = sdk.responses.parse(
        model="agent", input="script json;", text_format=Title, max_output_tokens=300
    )
    assert parsed.output_parsed is not None


def test_a_tool_and_a_conversation(sdk: Any) -> None:
    asked: dict[str, Any] = {"model": "agent", "tools": [LOOK]}
    first = sdk.responses.create(input="script look;", **asked)
    call = first.output[-1]
    assert (call.name, json.loads(call.arguments)) == ("look", {"place": "garden"})
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "cat"}
    second = sdk.responses.create(input=[output], previous_response_id=first.id, **asked)
    assert second.output_text == "There is a cat."
    assert sdk.responses.retrieve(second.id).output_text == second.output_text
    listed = list(sdk.responses.input_items.list(second.id))
    assert [item.type for item in listed] == ["function_call_output"]
    sdk.responses.delete(second.id)
    with pytest.raises(openai.NotFoundError):
        sdk.responses.retrieve(second.id)
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.responses.create(input="Hi", previous_response_id=second.id, **asked)
    assert caught.value.code == "previous_response_not_found"


def test_a_response_in_the_background(sdk: Any) -> None:
    stream = sdk.responses.create(
        model="agent", input="script think;", background=True, stream=True
    )
    begun = next(iter(stream))
    stream.close()
    rest = list(sdk.responses.retrieve(begun.response.id, stream=True, starting_after=0))
    assert [event.sequence_number for event in rest] == list(range(1, len(rest) + 1))
    assert rest[-1].response.output_text == "A dog."
    assert sdk.responses.cancel(begun.response.id).status == "completed"


@agents.function_tool
def look(place: str) -> str:
    """Look somewhere."""
    return f"a cat in the {place}"


def test_an_agent(base: str) -> None:
    agents.set_tracing_disabled(True)
    client = openai.AsyncOpenAI(base_url=base, api_key=KEY, max_retries=0)
    model = agents.OpenAIResponsesModel(model="agent", openai_client=client)
    agent = agents.Agent(name="finder", instructions="Look.", tools=[look], model=model)
    done = agents.Runner.run_sync(agent, "script look;")
    assert done.final_output == "There is a cat."
    results = [i.output for i in done.new_items if i.type == "tool_call_output_item"]
    assert results == ["a cat in the garden"]
    again = agents.Runner.run_sync(
        agent, [*done.to_input_list(), {"role": "user", "content": "script think;"}]
    )
    assert again.final_output == "A dog."
