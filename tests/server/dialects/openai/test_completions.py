"""`POST /v1/completions`, as its clients use it."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import openai
import pytest

from budmlx import Engine
from budmlx.server.app import HttpServer
from budmlx.server.dialects.openai.completions import MAX_PROMPTS
from tests.server.conftest import Start
from tests.server.tools import Answer, check_error, events, exchange, post, until

PATH = "/v1/completions"
PROMPT = "Once upon a time"


@pytest.fixture
async def sdk(server: HttpServer) -> AsyncIterator[openai.AsyncOpenAI]:
    base_url = f"{server.url}/v1"
    async with openai.AsyncOpenAI(base_url=base_url, api_key="x", max_retries=0) as sdk:
        yield sdk


async def ask(server: HttpServer, **fields: Any) -> Answer:
    request = {"model": "demo", "prompt": PROMPT, "max_tokens": 8, "temperature": 0, **fields}
    return await exchange(server, post(json.dumps(request).encode(), PATH))


async def reply(server: HttpServer, **fields: Any) -> Any:
    answer = await ask(server, **fields)
    assert answer.status == 200, answer.content
    return answer.json


async def streamed(server: HttpServer, **fields: Any) -> list[Any]:
    answer = await ask(server, stream=True, **fields)
    assert answer.headers["Content-Type"] == "text/event-stream"
    *chunks, done = events(answer.content)
    assert done == "[DONE]"
    return chunks


def texts(chunks: list[Any]) -> dict[int, str]:
    """What a client puts together from a stream; each choice ends once and then is silent."""
    made: dict[int, str] = {}
    ended = set()
    for chunk in chunks:
        for choice in chunk["choices"]:
            assert choice["index"] not in ended
            made[choice["index"]] = made.get(choice["index"], "") + choice["text"]
            if choice["finish_reason"] is not None:
                ended.add(choice["index"])
    assert ended == made.keys()
    return made


async def test_whole_reply(engine: Engine, server: HttpServer) -> None:
    found = await reply(server, model="org/name", service_tier="auto")
    expected = engine.complete(PROMPT, temperature=0, max_tokens=8)
    assert found["id"].startswith("cmpl-") and found["object"] == "text_completion"
    assert type(found["created"]) is int and found["model"] == "org/name"
    assert found["system_fingerprint"] == engine.info.fingerprint
    assert found["service_tier"] == "default"
    assert found["choices"] == [
        {"index": 0, "text": expected.text, "finish_reason": "length", "logprobs": None}
    ]
    # Newer atoma needs every one of these.
    assert found["usage"] == {
        "prompt_tokens": expected.usage.prompt_tokens,
        "completion_tokens": 8,
        "total_tokens": expected.usage.prompt_tokens + 8,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
    assert found["time_info"]["total_time"] >= 0
    assert "warnings" not in found


async def test_sixteen_tokens_unless_asked_otherwise(server: HttpServer) -> None:
    for fields in ({"max_tokens": None}, {"max_tokens": 16}):
        found = await reply(server, ignore_eos=True, **fields)
        assert found["usage"]["completion_tokens"] == 16


async def test_prompts_of_every_form(engine: Engine, server: HttpServer) -> None:
    ids = list(engine.tokenize(PROMPT).ids)
    expected = (await reply(server))["choices"][0]["text"]
    other = engine.complete("Other", temperature=0, max_tokens=8)
    for prompt in (PROMPT, ids, [float(i) for i in ids], [PROMPT], [ids]):
        (choice,) = (await reply(server, prompt=prompt))["choices"]
        assert choice["text"] == expected
    for prompt in ([PROMPT, "Other"], [ids, "Other"]):
        found = await reply(server, prompt=prompt)
        assert [choice["text"] for choice in found["choices"]] == [expected, other.text]
        assert found["usage"]["prompt_tokens"] == len(ids) + other.usage.prompt_tokens
        assert found["usage"]["completion_tokens"] == 8 + other.usage.completion_tokens


async def test_choices_of_several_prompts_are_numbered_through(server: HttpServer) -> None:
    fields = {"prompt": ["One", "Two", "Three"], "n": 2, "temperature": 1, "seed": 3}
    whole = await reply(server, **fields)
    assert [choice["index"] for choice in whole["choices"]] == list(range(6))
    for number, prompt in enumerate(fields["prompt"]):  # type: ignore[arg-type, var-annotated]
        alone = await reply(server, **{**fields, "prompt": prompt})
        texts_alone = [choice["text"] for choice in alone["choices"]]
        pair = whole["choices"][2 * number : 2 * number + 2]
        assert [choice["text"] for choice in pair] == texts_alone
    chunks = await streamed(server, **fields)
    assert texts(chunks) == {c["index"]: c["text"] for c in whole["choices"]}
    assert [bool(chunk.get("usage")) for chunk in chunks].count(True) == 1
    assert chunks[-1]["usage"] == whole["usage"]


async def test_chunks(engine: Engine, server: HttpServer) -> None:
    chunks = await streamed(server)
    for chunk in chunks:
        assert chunk["id"] == chunks[0]["id"] and chunk["id"].startswith("cmpl-")
        assert chunk["object"] == "text_completion"
        assert chunk["system_fingerprint"] == engine.info.fingerprint
        (choice,) = chunk["choices"]
        assert choice.keys() == {"index", "text", "finish_reason", "logprobs"}
    assert texts(chunks)[0] == engine.complete(PROMPT, temperature=0, max_tokens=8).text
    assert chunks[-1]["usage"]["completion_tokens"] == 8
    assert "time_info" in chunks[-1] and "usage" not in chunks[0]
    *chunks, last = await streamed(server, stream_options={"include_usage": True})
    assert last["choices"] == [] and last["usage"]["completion_tokens"] == 8
    assert all(chunk["usage"] is None for chunk in chunks)


async def test_echo(engine: Engine, server: HttpServer) -> None:
    plain = (await reply(server, prompt=["One ", "Two "], n=2))["choices"]
    ids = [list(engine.tokenize(text, add_special=False).ids) for text in ("One ", "Two ")]
    for prompt in (["One ", "Two "], ids):
        fields = {"prompt": prompt, "n": 2, "echo": True}
        found = (await reply(server, **fields))["choices"]
        expected = [("One ", "Two ")[i // 2] + plain[i]["text"] for i in range(4)]
        assert [choice["text"] for choice in found] == expected
        assert list(dict(sorted(texts(await streamed(server, **fields)).items())).values()) == (
            expected
        )


async def test_logprobs(server: HttpServer) -> None:
    for top in (0, 5):
        for fields in ({}, {"temperature": 1.5, "seed": 4, "n": 2}):
            found = await reply(server, logprobs=top, max_tokens=24, **fields)
            chunks = await streamed(server, logprobs=top, max_tokens=24, **fields)
            for choice in found["choices"]:
                shown = choice["logprobs"]
                tokens = shown["tokens"]
                assert len(tokens) == len(shown["token_logprobs"]) == len(shown["top_logprobs"])
                assert len(tokens) == len(shown["text_offset"]) > 5
                assert all(value <= 0 for value in shown["token_logprobs"])
                for token, value, best, offset in zip(*shown.values(), strict=True):
                    assert best[token] == value and len(best) <= top + 1
                    if not token.startswith("bytes:"):
                        assert choice["text"][offset:].startswith(token)
                pieces = [
                    each["choices"][0]["logprobs"]
                    for each in chunks
                    if each["choices"][0]["index"] == choice["index"]
                    and each["choices"][0]["finish_reason"] is None
                ]
                for name, values in shown.items():
                    assert [value for piece in pieces for value in piece[name]] == values


async def test_best_of(server: HttpServer) -> None:
    fields = {"temperature": 1.3, "seed": 9, "max_tokens": 12, "prompt": ["One", "Two"]}
    every = await reply(server, n=6, logprobs=0, **fields)

    def mean(choice: Any) -> float:
        values = choice["logprobs"]["token_logprobs"]
        return sum(values) / len(values) if values else -math.inf

    expected = [
        choice["text"]
        for group in (every["choices"][:6], every["choices"][6:])
        for choice in sorted(group, key=mean, reverse=True)[:2]
    ]
    best = await reply(server, n=2, best_of=6, **fields)
    assert [choice["text"] for choice in best["choices"]] == expected
    assert [choice["index"] for choice in best["choices"]] == [0, 1, 2, 3]
    assert best["usage"] == every["usage"]
    assert all(choice["logprobs"] is None for choice in best["choices"])
    assert (await ask(server, n=2, best_of=2, stream=True)).status == 200


async def test_sampling_parameters_are_those_of_chats(engine: Engine, server: HttpServer) -> None:
    whole = engine.complete(PROMPT, temperature=0, max_tokens=30).text
    stop = whole[10:13]
    found = await reply(server, max_tokens=30, stop=[stop])
    assert found["choices"][0]["text"] == whole[: whole.index(stop)]
    assert found["choices"][0]["finish_reason"] == "stop"
    sampling = {"temperature": 0.9, "seed": 5, "presence_penalty": 1, "frequency_penalty": 1}
    expected = engine.complete(PROMPT, max_tokens=8, logit_bias={300: 5}, **sampling)
    found = await reply(server, **sampling, logit_bias={"300": 5, "1234567890": 1}, user="me")
    assert found["choices"][0]["text"] == expected.text
    assert len(found["warnings"]) == 2
    found = await reply(server, max_tokens=40, response_format={"type": "json_object"})
    assert found["choices"][0]["text"].lstrip().startswith("{")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": [1.5]}, "prompt"),
        ({"prompt": ["a"] * (MAX_PROMPTS + 1)}, "prompt"),
        ({"prompt": [5, 100_000]}, "prompt[1]"),
        ({"prompt": [5, -1]}, "prompt[1]"),
        ({"prompt": [10**40]}, "prompt[0]"),
        ({"prompt": [[5, 100_000]]}, "prompt[0][1]"),
        ({"prompt": ["a", [5, 6, 100_000]]}, "prompt[1][2]"),
        ({"prompt": [""]}, "prompt[0]"),
        ({"prompt": ["fine", "word " * 9000]}, "prompt[1]"),
        ({"prompt": "word " * 9000}, "prompt"),
        ({"suffix": "end"}, "suffix"),
        ({"grammar_root": "root"}, "grammar_root"),
        ({"return_raw_tokens": True}, "return_raw_tokens"),
        ({"logprobs": 6}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"best_of": 17}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"model": None}, "model"),
    ],
)
async def test_refused(server: HttpServer, fields: dict[str, Any], param: str) -> None:
    error = check_error(await ask(server, **fields), 400, param=param)
    assert "suffix" not in fields or "`suffix`" in error["message"]
    if "stream" not in fields:
        check_error(await ask(server, stream=True, **fields), 400, param=param)


async def test_neutral_values_of_refused_parameters(server: HttpServer) -> None:
    fields = {"suffix": "", "return_raw_tokens": False, "best_of": None, "logprobs": None}
    assert "warnings" not in await reply(server, **fields)


async def test_a_request_needs_a_place_for_every_prompt(start: Start) -> None:
    server = await start(max_rows=1, max_queue=2)
    assert (await ask(server, prompt=["a", "b", "c"])).status == 200
    check_error(await ask(server, prompt=["a", "b", "c", "d"]), 400, param="prompt")
    assert server.in_flight.count == 0


async def test_clients_that_leave_end_all_prompts(
    server: HttpServer, client: aiohttp.ClientSession
) -> None:
    fields = {"model": "demo", "prompt": ["a", "b", "c"], "max_tokens": 8000, "ignore_eos": True}
    async with client.post(PATH, json={**fields, "stream": True}) as response:
        await response.content.readline()
        assert server.in_flight.count == 3
    await until(lambda: server.in_flight.count == 0)
    await until(lambda: server.models.loaded[0].status().running == 0)


async def test_sdk(sdk: openai.AsyncOpenAI) -> None:
    request = {"model": "demo", "prompt": [PROMPT, "Two"], "temperature": 0, "max_tokens": 8}
    whole = await sdk.completions.create(**request, logprobs=2)
    assert [choice.index for choice in whole.choices] == [0, 1]
    assert whole.choices[0].logprobs is not None
    assert whole.usage is not None and whole.usage.completion_tokens == 16
    stream = await sdk.completions.create(**request, stream=True)
    made = ["", ""]
    async for chunk in stream:
        made[chunk.choices[0].index] += chunk.choices[0].text
    assert made == [choice.text for choice in whole.choices]
    with pytest.raises(openai.BadRequestError) as caught:
        await sdk.completions.create(model="demo", prompt="a", suffix="b")
    assert caught.value.param == "suffix"


async def test_kept_replies(start: Start) -> None:
    server = await start()
    fields = {"prompt": ["kept one", "kept two"], "cache": True, "n": 2, "best_of": 3}
    first = await reply(server, **fields)
    second = await reply(server, **fields)
    assert (first["cached"], second["cached"]) == (False, True)
    assert second["choices"] == first["choices"]
    partly = await reply(server, **{**fields, "prompt": ["kept one", "new"]})
    assert partly["cached"] is False
