"""The anthropic package, this year's and last year's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.agents import PINGS, serving_scripts
from tests.clients.server import KEY, needed

anthropic = needed("anthropic")

TOOL: Any = {
    "name": "look",
    "description": "Look somewhere.",
    "input_schema": {"type": "object", "properties": {"place": {"type": "string"}}},
}


@pytest.fixture(scope="module")
def agents() -> Iterator[str]:
    with serving_scripts() as url:
        yield url


@pytest.fixture(params=["api_key", "auth_token"])
def sdk(agents: str, request: pytest.FixtureRequest, monkeypatch: Any) -> Iterator[Any]:
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with anthropic.Anthropic(base_url=agents, max_retries=0, **{request.param: KEY}) as sdk:
        yield sdk


def ask(text: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": "agent", "max_tokens": 400, "messages": messages, **fields}


def test_whole_and_streamed(sdk: Any) -> None:
    whole = sdk.messages.create(**ask("Hi", system="Be brief."))
    assert whole.content[0].text == "Hello." and whole._request_id
    assert (whole.stop_reason, whole.role, whole.model) == ("end_turn", "assistant", "agent")
    with sdk.messages.stream(**ask("Hi", system="Be brief.")) as stream:
        assert "".join(stream.text_stream) == "Hello."
        final = stream.get_final_message()
    assert final.usage.output_tokens == whole.usage.output_tokens
    counts = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    assert sum(getattr(final.usage, name) for name in counts) == sum(
        getattr(whole.usage, name) for name in counts
    )
    events = list(sdk.messages.create(**ask("Hi"), stream=True))
    assert events[0].type == "message_start" and events[-1].type == "message_stop"
    begun, [ended] = events[0].message.usage, [e.usage for e in events if e.type == "message_delta"]
    for name in counts:
        assert getattr(begun, name) == getattr(ended, name)
    assert sum(getattr(begun, name) for name in counts) > 3


def test_streams_that_begin_before_the_first_token() -> None:
    with serving_scripts(**PINGS) as url:
        sdk = anthropic.Anthropic(base_url=url, api_key=KEY, max_retries=0)
        with sdk.messages.stream(**ask("script think; What is it?")) as stream:
            assert "".join(stream.text_stream).strip() == "A dog."
            assert stream.get_final_message().usage.output_tokens > 3


def test_asynchronous(agents: str) -> None:
    async def talk() -> list[str]:
        async with anthropic.AsyncAnthropic(base_url=agents, api_key=KEY) as client:
            replies = await asyncio.gather(
                *(client.messages.create(**ask(f"Hi {number}")) for number in range(4))
            )
            async with client.messages.stream(**ask("Hi")) as stream:
                last = await stream.get_final_message()
        return [reply.content[0].text for reply in (*replies, last)]

    assert asyncio.run(talk()) == ["Hello."] * 5


@pytest.mark.parametrize("streaming", [False, True])
def test_a_loop_with_a_tool(sdk: Any, streaming: bool) -> None:
    def reply_to(body: dict[str, Any]) -> Any:
        if not streaming:
            return sdk.messages.create(**body)
        with sdk.messages.stream(**body) as stream:
            return stream.get_final_message()

    body = ask("script look; What is there?", tools=[TOOL])
    first = reply_to(body)
    thought, said, call = first.content
    assert (thought.thinking, said.text, call.input) == (
        "I will look.",
        "Looking.",
        {"place": "garden"},
    )
    assert first.stop_reason == "tool_use" and thought.signature
    content = [{"type": "tool_result", "tool_use_id": call.id, "content": "A cat."}]
    messages = [
        *body["messages"],
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": content},
    ]
    second = reply_to({**body, "messages": messages})
    assert second.content[0].text == "There is a cat."
    # The whole turn before is reused, its reasoning too.
    assert second.usage.cache_read_input_tokens >= first.usage.output_tokens


def test_a_stop_sequence(sdk: Any) -> None:
    found = sdk.messages.create(**ask("script think; Hm?", stop_sequences=["dog"]))
    assert (found.stop_reason, found.stop_sequence) == ("stop_sequence", "dog")
    assert found.content[-1].text == "A "


def test_counts_and_models(sdk: Any) -> None:
    body = ask("Count this", tools=[TOOL])
    counted = sdk.messages.count_tokens(**{k: v for k, v in body.items() if k != "max_tokens"})
    usage = sdk.messages.create(**body).usage
    assert counted.input_tokens == (
        usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens
    )
    listed = list(sdk.models.list(limit=1))
    assert "agent" in [model.id for model in listed]
    found = sdk.models.retrieve("agent")
    assert found.type == "model" and found.display_name == "agent" and found.created_at.year > 2020


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"max_tokens": 0}, "BadRequestError"),
        ({"model": "nobody"}, "NotFoundError"),
        ({"messages": [{"role": "user", "content": "x " * 70_000}]}, "BadRequestError"),
        (
            {"extra_headers": {"X-Api-Key": "no", "Authorization": "Bearer no"}},
            "AuthenticationError",
        ),
    ],
)
def test_errors(sdk: Any, fields: dict[str, Any], error: str) -> None:
    for stream in (False, True):
        with pytest.raises(getattr(anthropic, error)) as caught:
            sdk.messages.create(**{**ask("Hi"), **fields}, stream=stream)
        assert caught.value.body["error"]["message"] and caught.value.request_id


def test_forms(sdk: Any) -> None:
    pydantic = needed("pydantic")

    class Titled(pydantic.BaseModel):  # type: ignore[misc, name-defined]
        title: str
        count: int

    parse = getattr(sdk.messages, "parse", None) or sdk.beta.messages.parse
    found = parse(**ask("script json; Title?"), output_format=Titled)
    assert (found.parsed_output.title, found.parsed_output.count) == ("Cats", 2)


def test_the_runner_of_tools_goes_on_without_threads(sdk: Any) -> None:
    tool = getattr(anthropic, "beta_tool", None)
    if tool is None or not hasattr(sdk.beta.messages, "tool_runner"):
        pytest.skip("this version has no runner of tools")
    asked: list[str] = []

    def look(place: str) -> str:
        """Look somewhere.

        Args:
            place: Where.
        """
        asked.append(place)
        return "A cat."

    runner = sdk.beta.messages.tool_runner(**ask("script look; What is there?"), tools=[tool(look)])
    last = runner.until_done()
    assert asked == ["garden"] and last.content[0].text == "There is a cat."


def ended(sdk: Any, batch: Any) -> Any:
    while batch.processing_status != "ended":
        assert batch.results_url is None
        time.sleep(0.05)
        batch = sdk.messages.batches.retrieve(batch.id)
    return batch


def test_batches(sdk: Any) -> None:
    batches = sdk.messages.batches
    requests = [
        {"custom_id": "hi", "params": ask("Hi")},
        {"custom_id": "tool", "params": ask("script look; What is there?", tools=[TOOL])},
        {"custom_id": "wrong", "params": ask("Hi", temperature=-1)},
    ]
    batch = batches.create(requests=requests)
    assert batch.type == "message_batch" and batch.expires_at > batch.created_at
    batch = ended(sdk, batch)
    counts = batch.request_counts
    assert (counts.succeeded, counts.errored, counts.processing) == (2, 1, 0)
    found = {each.custom_id: each.result for each in batches.results(batch.id)}
    assert found["hi"].message.content[0].text == "Hello."
    assert found["tool"].message.content[-1].input == {"place": "garden"}
    assert found["wrong"].error.error.type == "invalid_request_error"
    assert "temperature" in found["wrong"].error.error.message
    second = ended(sdk, batches.create(requests=requests[:1]))
    assert [each.id for each in batches.list(limit=1)][:2] == [second.id, batch.id]
    before = batches.list(before_id=batch.id)
    assert [each.id for each in before.data] == [second.id]
    assert batches.cancel(batch.id).processing_status == "ended"
    assert batches.delete(batch.id).type == "message_batch_deleted"
    with pytest.raises(anthropic.NotFoundError):
        batches.retrieve(batch.id)


def test_a_cancelled_batch(sdk: Any) -> None:
    batches = sdk.messages.batches
    many = [{"custom_id": str(n), "params": ask(f"Hi {n}")} for n in range(300)]
    batch = batches.create(requests=many)
    with pytest.raises(anthropic.BadRequestError, match="cancel it first"):
        batches.delete(batch.id)
    batch = ended(sdk, batches.cancel(batch.id))
    counts = batch.request_counts
    assert counts.canceled and counts.canceled + counts.succeeded == 300
    assert batch.cancel_initiated_at is not None
    kinds = [each.result.type for each in batches.results(batch.id)]
    assert (kinds.count("canceled"), kinds.count("succeeded")) == (
        counts.canceled,
        counts.succeeded,
    )


def test_a_batch_whose_names_are_not_different(sdk: Any) -> None:
    same = [{"custom_id": "a", "params": ask("Hi")}] * 2
    with pytest.raises(anthropic.BadRequestError, match=r"requests\.1\.custom_id"):
        sdk.messages.batches.create(requests=same)
