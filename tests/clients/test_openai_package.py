"""The openai package, synchronous and not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.server import KEY, needed, started

openai = needed("openai")

CHAT: Any = {
    "model": "demo",
    "messages": [{"role": "user", "content": "Count to 10"}],
    "max_tokens": 40,
    "temperature": 0,
}


@pytest.fixture
def sdk(url: str) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY) as sdk:
        yield sdk


def text_of(chunks: Any) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


def test_whole_and_stream(sdk: Any) -> None:
    whole = sdk.chat.completions.create(**CHAT)
    assert whole.choices[0].message.content and whole._request_id
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    assert text_of(sdk.chat.completions.create(**CHAT, stream=True)) == (
        whole.choices[0].message.content
    )
    with sdk.chat.completions.stream(**CHAT, stream_options={"include_usage": True}) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == whole.choices[0].message.content
    assert final.usage.completion_tokens == whole.usage.completion_tokens


def test_asynchronous(url: str, sdk: Any) -> None:
    async def talk() -> list[str]:
        async with openai.AsyncOpenAI(base_url=url, api_key=KEY) as client:
            replies = await asyncio.gather(
                *(client.chat.completions.create(**CHAT) for _ in range(4))
            )
            stream = await client.chat.completions.create(**CHAT, stream=True)
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
        return [reply.choices[0].message.content for reply in replies] + ["".join(pieces)]

    assert set(asyncio.run(talk())) == {
        sdk.chat.completions.create(**CHAT).choices[0].message.content
    }


def test_raw_and_streamed_responses(sdk: Any) -> None:
    raw = sdk.chat.completions.with_raw_response.create(**CHAT)
    assert raw.headers["x-request-id"] and raw.parse().choices[0].message.content
    with sdk.chat.completions.with_streaming_response.create(**CHAT, stream=True) as response:
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert json.loads(lines[0].removeprefix("data: "))["object"] == "chat.completion.chunk"


def test_a_stream_that_is_left_early(sdk: Any) -> None:
    with sdk.chat.completions.create(**CHAT, stream=True) as stream:
        next(iter(stream))
    assert sdk.chat.completions.create(**CHAT).choices


def test_completions_and_models(sdk: Any) -> None:
    options: Any = {"model": "demo", "prompt": ["One, two,", "A, B,"], "max_tokens": 5, "n": 2}
    done = sdk.completions.create(**options, logprobs=2, seed=1)
    assert [choice.index for choice in done.choices] == [0, 1, 2, 3]
    assert len(done.choices[0].logprobs.tokens) == 5 or done.choices[0].finish_reason == "stop"
    chunks = sdk.completions.create(**options, stream=True, seed=1)
    texts = dict.fromkeys(range(4), "")
    for chunk in chunks:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert list(texts.values()) == [choice.text for choice in done.choices]
    listed = [model.id for model in sdk.models.list()]
    assert sdk.models.retrieve(listed[0]).id == listed[0]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"temperature": 9}, "BadRequestError"),
        ({"messages": []}, "BadRequestError"),
        ({"extra_headers": {"Authorization": "Bearer wrong"}}, "AuthenticationError"),
        ({"extra_headers": {"Host": "evil.example"}}, "PermissionDeniedError"),
    ],
)
def test_errors(sdk: Any, fields: dict[str, Any], error: str) -> None:
    for stream in (False, True):
        with pytest.raises(getattr(openai, error)) as caught:
            sdk.chat.completions.create(**CHAT | fields, stream=stream)
        assert caught.value.body["message"] and caught.value.request_id
    with pytest.raises(openai.BadRequestError):
        sdk.embeddings.create(model="demo", input="x")


def test_predicted_outputs() -> None:
    with (
        started(BUDMLX_SPECULATION="8") as (url, _),
        openai.OpenAI(base_url=f"{url}/v1", api_key=KEY) as sdk,
    ):
        plain = sdk.chat.completions.create(**CHAT)
        details = plain.usage.completion_tokens_details
        assert details.accepted_prediction_tokens == details.rejected_prediction_tokens == 0
        text = plain.choices[0].message.content
        parts = [{"type": "text", "text": text[:9]}, {"type": "text", "text": text[9:]}]
        for content in (text, parts):
            prediction = {"type": "content", "content": content}
            told = sdk.chat.completions.create(**CHAT, prediction=prediction)
            assert told.choices == plain.choices and "warnings" not in told.model_extra
            found = told.usage.completion_tokens_details
            assert found.accepted_prediction_tokens > plain.usage.completion_tokens // 2
        options = {"stream": True, "stream_options": {"include_usage": True}}
        wrong = {"type": "content", "content": text[: len(text) // 2] + " and nothing else at all"}
        *chunks, last = sdk.chat.completions.create(**CHAT, prediction=wrong, **options)
        assert text_of(chunks) == text
        assert last.usage.completion_tokens_details.accepted_prediction_tokens > 0
        assert last.usage.completion_tokens_details.rejected_prediction_tokens > 0
        with pytest.raises(openai.BadRequestError) as refused:
            sdk.chat.completions.create(**CHAT, prediction={"type": "content", "content": 7})
        assert refused.value.param == "prediction.content"
