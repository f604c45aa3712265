"""What sampling parameters do shows in the answer, in any combination."""

from __future__ import annotations

import json
import threading
from typing import Any

import aiohttp
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from budmlx import Engine
from budmlx.engine.request import past_calls
from budmlx.server.app import HttpServer
from tests.amount import examples
from tests.server.tools import CHAT, body, check_error, exchange, post

LIMIT = st.integers(4, 12)
FIELDS = st.fixed_dictionaries(
    {"max_tokens": LIMIT, "temperature": st.sampled_from([0, 0.8, 1.5]), "seed": st.integers(0, 9)},
    optional={
        "max_completion_tokens": LIMIT,
        "min_tokens": st.integers(0, 8),
        "n": st.integers(1, 3),
        "stop": st.lists(st.sampled_from([*"aeinorst "]), min_size=1, max_size=4),
        "ignore_eos": st.booleans(),
        "top_k": st.sampled_from([0, 1, 5]),
        "top_p": st.sampled_from([0.5, 1]),
        "frequency_penalty": st.sampled_from([0, 1]),
        "logit_bias": st.just({"end": 5}),  # so that replies end by themselves, too
    },
)

ENDING = {"max_tokens": 12, "temperature": 0, "seed": 0, "logit_bias": {"end": 5}}


async def ask(session: aiohttp.ClientSession, **fields: Any) -> Any:
    async with session.post(CHAT, json=body(logprobs=True, **fields)) as response:
        reply = await response.json()
        assert response.status == 200, reply
        return reply


def texts(choice: Any) -> list[str]:
    return [entry["token"] for entry in choice["logprobs"]["content"]]


def check_lengths(reply: Any, fields: dict[str, Any]) -> None:
    """Limits are kept, and replies end only where they may."""
    limit = fields.get("max_completion_tokens", fields["max_tokens"])
    choices, used = reply["choices"], reply["usage"]["completion_tokens"]
    least, stops = fields.get("min_tokens", 0), fields.get("stop", [])
    assert len(choices) == fields.get("n", 1)
    assert least * len(choices) <= used <= limit * len(choices)
    assert all(len(texts(choice)) <= limit for choice in choices)
    ended = {choice["finish_reason"] for choice in choices}
    if ended == {"length"}:
        assert used == limit * len(choices)
    elif fields.get("ignore_eos"):
        assert stops
    if not least:
        assert not any(s in choice["message"]["content"] for s in stops for choice in choices)


@settings(
    max_examples=examples(10),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(fields=FIELDS)
@example(fields={**ENDING, "ignore_eos": True})
@example(fields={**ENDING, "min_tokens": 12})
async def test_effects_show(engine: Engine, server: HttpServer, fields: dict[str, Any]) -> None:
    # "end" stands for the model's own ends.
    ids: dict[str, list[str]] = {}
    for token in range(engine.info.vocab_size):
        ids.setdefault(engine.detokenize([token]), []).append(str(token))
    bias = {str(i): 5 for i in engine.info.eos_token_ids} if "logit_bias" in fields else {}
    fields = {**fields, "logit_bias": bias}
    limit = fields.get("max_completion_tokens", fields["max_tokens"])
    async with aiohttp.ClientSession(server.url) as session:
        if fields.get("min_tokens", 0) > limit:
            async with session.post(CHAT, json=body(**fields)) as response:
                assert response.status == 400
                assert (await response.json())["error"]["param"] == "min_tokens"
            return
        reply = await ask(session, **fields)
        check_lengths(reply, fields)
        assert (await ask(session, **fields))["choices"] == reply["choices"]
        if fields.get("top_k") == 1:
            greedy = await ask(session, **{**fields, "top_k": 0, "temperature": 0})
            assert greedy["choices"] == reply["choices"]
        drawn = {text for choice in reply["choices"] for text in texts(choice)}
        alone = {text: ids[text][0] for text in drawn if len(ids.get(text, ())) == 1}
        bans = dict.fromkeys(alone.values(), -100)
        without = await ask(session, **{**fields, "logit_bias": {**bias, **bans}})
        check_lengths(without, fields)
        assert not any(alone.keys() & {*texts(choice)} for choice in without["choices"])


async def test_histories_that_are_mended_do_not_stop_the_loop(
    server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = "{'a': [" + "'b'," * 14_000 + "]}"
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Hi"}]
    for number in range(4):
        function = {"name": "f", "arguments": broken}
        call = {"id": f"c{number}", "type": "function", "function": function}
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": f"c{number}", "content": "Done"})
    raw = post(json.dumps(body(messages=messages)).encode())
    threads: list[int] = []
    object_in = past_calls.object_in

    def recorded(text: str) -> str | None:
        threads.append(threading.get_ident())
        return object_in(text)

    monkeypatch.setattr(past_calls, "object_in", recorded)
    answer = await exchange(server, raw)
    check_error(answer, 400, code="context_length_exceeded")
    # Four calls for the prompt, and again for the warnings.
    assert len(threads) >= 4 and threading.get_ident() not in threads
