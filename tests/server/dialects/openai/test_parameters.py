"""The sampling parameters over HTTP: honoured, or refused by name; JSON and stream agree."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from budmlx.server.app import HttpServer
from budmlx.server.dialects.openai.chat import ChatRequest
from tests.amount import examples
from tests.server.tools import CHAT, body


async def ask(client: aiohttp.ClientSession, **fields: Any) -> tuple[int, Any]:
    async with client.post(CHAT, json=body(**fields)) as response:
        return response.status, await response.json()


async def chunks(client: aiohttp.ClientSession, **fields: Any) -> list[dict[str, Any]]:
    async with client.post(CHAT, json=body(stream=True, **fields)) as response:
        lines = (await response.text()).split("\n\n")
    events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert events.pop() == "[DONE]"
    return [json.loads(event) for event in events]


def by_choice(events: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """What a client puts together from a stream."""
    choices: dict[int, dict[str, Any]] = {}
    for event in events:
        for choice in event["choices"]:
            made = choices.setdefault(choice["index"], {"text": "", "logprobs": [], "reasons": []})
            assert not made["reasons"], "a choice spoke after its end"
            made["text"] += choice["delta"].get("content", "")
            made["logprobs"] += (choice["logprobs"] or {"content": []})["content"]
            if choice["finish_reason"]:
                made["reasons"].append(choice["finish_reason"])
    return choices


async def test_same_seed_same_tokens_in_every_form(client: aiohttp.ClientSession) -> None:
    sampling = {"temperature": 1.0, "top_p": 0.9, "seed": 42, "max_tokens": 16}
    _, alone = await ask(client, **sampling)
    text = alone["choices"][0]["message"]["content"]
    _, several = await ask(client, n=4, **sampling)
    assert several["choices"][0]["message"]["content"] == text
    assert len({c["message"]["content"] for c in several["choices"]}) == 4
    streamed = by_choice(await chunks(client, n=4, **sampling))
    for index, choice in enumerate(several["choices"]):
        assert streamed[index]["text"] == choice["message"]["content"]
        assert streamed[index]["reasons"] == [choice["finish_reason"]]
    busy = [ask(client, temperature=1.5, seed=i, frequency_penalty=1) for i in range(12)]
    (_, amid), *_ = await asyncio.gather(ask(client, **sampling), *busy)
    assert amid["choices"][0]["message"]["content"] == text
    _, other_name = await ask(client, **{**sampling, "seed": None}, random_seed=42)
    assert other_name["choices"][0]["message"]["content"] == text


async def test_usage_counts_all_choices(client: aiohttp.ClientSession) -> None:
    _, reply = await ask(client, n=3, max_tokens=5, ignore_eos=True)
    assert reply["usage"]["completion_tokens"] == 15
    events = await chunks(client, n=3, max_tokens=5, ignore_eos=True)
    assert [e["usage"]["completion_tokens"] for e in events if e.get("usage")] == [15]
    assert events[-1]["choices"][0]["finish_reason"] == "length"


# LIMITS 60
async def test_logprobs_belong_to_the_tokens_of_the_content(client: aiohttp.ClientSession) -> None:
    for fields in (
        {"logprobs": True, "top_logprobs": 3},
        {"top_logprobs": 3},
        {"top_logprobs": 3, "temperature": 1.3, "seed": 8, "stop": ["e", "o"]},
    ):
        _, reply = await ask(client, max_tokens=24, **fields)
        [choice] = reply["choices"]
        content = choice["logprobs"]["content"]
        raw = b"".join(bytes(entry["bytes"]) for entry in content)
        text = choice["message"]["content"]
        assert raw.decode(errors="replace").startswith(text.rstrip("\ufffd"))
        assert all(len(entry["top_logprobs"]) == 3 for entry in content)
        assert all(entry["logprob"] <= 0 for entry in content)
        streamed = by_choice(await chunks(client, max_tokens=24, **fields))[0]
        assert streamed["logprobs"] == content and streamed["text"] == text
    _, reply = await ask(client, logprobs=True)
    assert reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []
    _, reply = await ask(client)
    assert reply["choices"][0]["logprobs"] is None


# LIMITS 56
async def test_a_bias_decides_and_unknown_ids_are_reported(client: aiohttp.ClientSession) -> None:
    _, plain = await ask(client, logprobs=True)
    first = plain["choices"][0]["logprobs"]["content"][0]
    _, forced = await ask(client, logit_bias={"300": 100, "1234567890": 0.5, "-1": 3})
    _, single = await ask(client, logit_bias={"300": 100})
    assert forced["choices"] == single["choices"] != plain["choices"]
    assert any("logit_bias" in warning for warning in forced["warnings"])
    assert first["token"] not in forced["choices"][0]["message"]["content"]


# LIMITS 57
async def test_banning_everything_fails_that_request_alone(client: aiohttp.ClientSession) -> None:
    banned = {str(i): -100 for i in range(512)}
    other = ask(client, max_tokens=40)
    (status, failed), (fine, _) = await asyncio.gather(ask(client, logit_bias=banned), other)
    assert (status, failed["error"]["code"]) == (500, "non_finite_logits")
    assert fine == 200


async def test_min_tokens_hold_stops_back(client: aiohttp.ClientSession) -> None:
    _, free = await ask(client, max_tokens=30)
    stop = free["choices"][0]["message"]["content"][2]
    _, cut = await ask(client, max_tokens=30, stop=stop)
    assert cut["usage"]["completion_tokens"] < 20
    _, held = await ask(client, max_tokens=30, stop=stop, min_tokens=20)
    assert held["usage"]["completion_tokens"] >= 20
    _, context = await ask(client, max_tokens=30, stop=stop, min_completion_tokens=-1)
    assert context["usage"]["completion_tokens"] == 30
    status, refused = await ask(client, max_tokens=5, min_tokens=6)
    assert (status, refused["error"]["param"]) == (400, "min_tokens")
    status, refused = await ask(client, max_tokens=5, min_completion_tokens=6)
    assert (status, refused["error"]["param"]) == (400, "min_completion_tokens")


async def test_what_is_accepted_without_effect_is_said(client: aiohttp.ClientSession) -> None:
    fields = {"user": "me", "metadata": {"a": "b"}, "store": True, "service_tier": "auto"}
    _, reply = await ask(client, reasoning_effort="low", parallel_tool_calls=False, **fields)
    assert reply["service_tier"] == "default"
    for name in ("user", "metadata", "store", "reasoning_effort"):
        assert any(name in warning for warning in reply["warnings"]), name
    events = await chunks(client, **fields)
    assert [bool(event.get("warnings")) for event in events[-2:]] == [False, True]


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 30),
    st.sampled_from([2**31, 2**63, -(2**63), 1e300, 0.5, -0.5, 1.0, 101, "1", "", [], {}]),
    st.floats(-3, 3),
    st.lists(st.text(max_size=3), max_size=3),
    st.dictionaries(st.sampled_from(["1", "x", "99999", "-1"]), st.floats(-120, 120), max_size=3),
)
NAMES = sorted(ChatRequest.model_fields.keys() - {"model", "messages", "stream"})


# LIMITS 50, 52
@settings(
    max_examples=examples(60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(fields=st.dictionaries(st.sampled_from(NAMES), VALUES, min_size=1, max_size=5))
async def test_any_combination_is_honoured_or_refused_by_name(
    server: HttpServer, fields: dict[str, Any]
) -> None:
    # Lengths up to the context are valid, but hundreds of such replies take too long.
    for name in ("max_tokens", "max_completion_tokens"):
        value = fields.get(name, 0)
        if value is None or (isinstance(value, int | float) and value > 30):
            fields[name] = 5
    async with aiohttp.ClientSession(server.url) as session:
        status, reply = await ask(session, **{"max_tokens": 4, **fields})
    assert status in (200, 400), reply
    if status == 400:
        assert reply["error"]["param"].split(".")[0].split("[")[0] in fields
        return
    usage, limit = (
        reply["usage"],
        fields.get("max_completion_tokens") or fields.get("max_tokens", 4),
    )
    assert len(reply["choices"]) == (fields.get("n") or 1)
    if limit is not None:
        assert usage["completion_tokens"] <= limit * len(reply["choices"])
    for choice in reply["choices"]:
        assert choice["finish_reason"] in ("stop", "length")
        wanted = fields.get("logprobs") or fields.get("top_logprobs")
        assert (choice["logprobs"] is not None) == bool(wanted)
