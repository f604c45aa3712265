"""Text, token ids and prompts over HTTP."""

from __future__ import annotations

import json
from typing import Any

import pytest

from budmlx import Engine
from budmlx.server.app import HttpServer
from tests.server.conftest import Start
from tests.server.tools import CHAT, Answer, body, check_error, exchange, post

TEXT = "Zwölf Boxkämpfer \N{GRINNING FACE}"
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


async def ask(server: HttpServer, name: str, **fields: Any) -> Answer:
    raw = json.dumps({"model": "demo", **fields}).encode()
    return await exchange(server, post(raw, f"/v1/{name}"))


async def test_text_to_ids_and_back(engine: Engine, server: HttpServer) -> None:
    found = (await ask(server, "tokenize", prompt=TEXT)).json
    expected = engine.tokenize(TEXT)
    assert found == {
        "tokens": list(expected.ids),
        "token_strs": list(expected.pieces),
        "count": len(expected.ids),
        "max_model_len": engine.info.context_length,
    }
    assert (await ask(server, "detokenize", tokens=found["tokens"])).json == {"prompt": TEXT}
    assert (await ask(server, "detokenize", tokens=[])).json == {"prompt": ""}
    assert (await ask(server, "tokenize", prompt="")).json["count"] == 0


async def test_a_large_text(server: HttpServer) -> None:
    text = "all work and no play " * 20_000
    found = (await ask(server, "tokenize", prompt=text)).json
    assert found["count"] > found["max_model_len"]
    assert (await ask(server, "detokenize", tokens=found["tokens"])).json["prompt"] == text


async def test_the_prompt_of_a_chat(engine: Engine, server: HttpServer) -> None:
    chat = body("Hello", messages=[{"role": "system", "content": "Be brief."}, *body()["messages"]])
    found = (await exchange(server, post(json.dumps(chat).encode(), "/v1/apply_template"))).json
    reply = (await exchange(server, post(json.dumps(chat).encode(), CHAT))).json
    assert found["count"] == len(found["tokens"]) == reply["usage"]["prompt_tokens"]
    assert "Be brief." in found["prompt"] and "warnings" not in found
    assert engine.detokenize(found["tokens"]) == found["prompt"]
    raw = {"model": "demo", "prompt": found["tokens"], "max_tokens": 8, "temperature": 0}
    same = (await exchange(server, post(json.dumps(raw).encode(), "/v1/completions"))).json
    assert same["choices"][0]["text"] == reply["choices"][0]["message"]["content"]


async def test_warnings(server: HttpServer) -> None:
    for name, fields in (
        ("tokenize", {"prompt": "x"}),
        ("detokenize", {"tokens": [5]}),
        ("apply_template", {"messages": body()["messages"], "reasoning_effort": "low"}),
    ):
        warnings = (await ask(server, name, foo=1, **fields)).json["warnings"]
        assert warnings[0] == "`foo` is not a known parameter and was ignored."
        assert (len(warnings) == 2) is (name == "apply_template")


@pytest.mark.parametrize(
    ("name", "fields", "status", "param"),
    [
        ("tokenize", {}, 400, "prompt"),
        ("tokenize", {"prompt": ["a"]}, 400, "prompt"),
        ("tokenize", {"prompt": "a", "add_special_tokens": 1}, 400, "add_special_tokens"),
        ("tokenize", {"prompt": "a", "model": "nope"}, 404, "model"),
        ("detokenize", {}, 400, "tokens"),
        ("detokenize", {"tokens": "a"}, 400, "tokens"),
        ("detokenize", {"tokens": [1, "a"]}, 400, "tokens[1]"),
        ("detokenize", {"tokens": [1, True]}, 400, "tokens[1]"),
        ("detokenize", {"tokens": [1, -1]}, 400, "tokens[1]"),
        ("detokenize", {"tokens": [1, 2, 10**30]}, 400, "tokens[2]"),
        ("apply_template", {"messages": []}, 400, "messages"),
        ("apply_template", {"messages": [{"role": "x"}]}, 400, "messages[0].role"),
        (
            "apply_template",
            {**body(), "chat_template_kwargs": {"messages": []}},
            400,
            "chat_template_kwargs.messages",
        ),
        ("apply_template", {**body(), "tools": [TOOL, TOOL]}, 400, "tools[1]"),
    ],
)
async def test_refused(
    server: HttpServer, name: str, fields: dict[str, Any], status: int, param: str
) -> None:
    check_error(await ask(server, name, **fields), status, param=param)


async def test_strict_and_keys(start: Start) -> None:
    server = await start(strict=True, api_keys=("key",))
    raw = json.dumps({"model": "demo", "prompt": "x", "foo": 1}).encode()
    check_error(await exchange(server, post(raw, "/tokenize")), 401)
    answer = await exchange(server, post(raw, "/tokenize", Authorization="Bearer key"))
    check_error(answer, 400, param="foo")
