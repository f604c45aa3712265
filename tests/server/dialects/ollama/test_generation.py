"""Chats and texts in Ollama's protocol, over a real socket."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import aiohttp
import pytest
from pydantic import SecretStr

from budmlx import Engine
from budmlx.server.app import HttpServer
from budmlx.server.dialects.ollama.chat import OllamaChat
from budmlx.server.dialects.ollama.options import Options
from budmlx.server.warnings_header import NAME as WARNINGS
from tests.server.conftest import Start
from tests.server.tools import exchange, get, post

HI = [{"role": "user", "content": "Hello"}]
GREEDY = {"num_predict": 8, "temperature": 0}
SCHEMA = {
    "type": "object",
    "properties": {"a": {"const": 7}},
    "required": ["a"],
    "additionalProperties": False,
}


async def ask(
    client: aiohttp.ClientSession, path: str = "/api/chat", **fields: Any
) -> tuple[list[dict[str, Any]], Mapping[str, str]]:
    """The lines of a reply, and its headers."""
    first = {"prompt": "Hello"} if path == "/api/generate" else {"messages": HI}
    body = {"model": "demo", **first, "options": GREEDY, **fields}
    async with client.post(path, json=body) as response:
        text = await response.text()
        assert response.status == 200, text
        kind = "application/x-ndjson" if body.get("stream", True) else "application/json"
        assert response.headers["Content-Type"] == kind
        return [json.loads(line) for line in text.splitlines()], response.headers


def said(lines: list[dict[str, Any]]) -> str:
    return "".join(line.get("response", line.get("message", {}).get("content")) for line in lines)


async def refusal(client: aiohttp.ClientSession, path: str, body: Any) -> tuple[int, str]:
    async with client.post(path, json=body) as response:
        found = await response.json()
        assert found.keys() == {"error"}
        return response.status, found["error"]


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
async def test_whole_and_streamed_say_the_same(client: aiohttp.ClientSession, path: str) -> None:
    fields: Any = {"format": SCHEMA, "options": {**GREEDY, "num_predict": 300}}
    streamed, _ = await ask(client, path, **fields)
    whole, _ = await ask(client, path, stream=False, **fields)
    assert len(streamed) > 2 and len(whole) == 1
    assert json.loads(said(streamed)) == json.loads(said(whole)) == {"a": 7}
    *pieces, last = streamed
    assert not any(line["done"] for line in pieces)
    for line in (last, *whole):
        assert line["done"] and line["done_reason"] in ("stop", "length")
        counts = {name: value for name, value in line.items() if name.endswith(("_count", "ation"))}
        assert len(counts) == 6 and all(type(value) is int for value in counts.values())
        assert line["prompt_eval_count"] > 5 and line["total_duration"] > 0
    assert {line["model"] for line in streamed} == {"demo"}


async def test_it_is_the_chat_of_the_other_protocol(client: aiohttp.ClientSession) -> None:
    body = {"model": "demo", "messages": HI, "max_tokens": 8, "temperature": 0}
    async with client.post("/v1/chat/completions", json=body) as response:
        expected = await response.json()
    ((line,), _) = await ask(client, stream=False)
    assert line["message"]["content"] == expected["choices"][0]["message"]["content"]
    assert line["prompt_eval_count"] == expected["usage"]["prompt_tokens"]
    ((line,), _) = await ask(client, "/api/generate", stream=False)
    assert line["response"] == expected["choices"][0]["message"]["content"]


async def test_raw_text_is_continued(client: aiohttp.ClientSession) -> None:
    body = {"model": "demo", "prompt": "One, two", "max_tokens": 8, "temperature": 0}
    async with client.post("/v1/completions", json=body) as response:
        expected = (await response.json())["choices"][0]["text"]
    lines, _ = await ask(client, "/api/generate", prompt="One, two", raw=True)
    assert said(lines) == expected != ""
    status, error = await refusal(
        client, "/api/generate", {"model": "demo", "prompt": "a", "raw": True, "images": ["aGk="]}
    )
    assert status == 400 and "images" in error


async def test_a_text_goes_on_from_the_ids_of_others(
    client: aiohttp.ClientSession, engine: Engine
) -> None:
    path = "/api/generate"
    first, _ = await ask(client, path, context=[])
    expected = engine.apply_template("Hello").ids
    ids = first[-1]["context"]
    assert tuple(ids[: len(expected)]) == expected
    assert engine.detokenize(ids[len(expected) :]) == said(first)
    for stream in (True, False):
        again, _ = await ask(client, path, prompt="More", context=ids, stream=stream)
        assert again[-1]["context"][: len(ids)] == ids
        assert again[-1]["prompt_eval_count"] == len(ids) + len(engine.apply_template("More").ids)
    raw, _ = await ask(client, path, prompt="x", context=[5, 6], raw=True)
    assert raw[-1]["prompt_eval_count"] == 3
    plain, _ = await ask(client, path)
    assert "context" not in plain[-1]
    _, headers = await ask(client, path, context=[], think=True, max_reasoning_tokens=3)
    assert json.loads(headers[WARNINGS])[-1] == "max_reasoning_tokens has no effect on raw text."
    body = {"model": "demo", "prompt": "a", "context": [5, 10**6]}
    assert "context[1]" in (await refusal(client, path, body))[1]


async def test_names_with_a_tag_or_a_host(client: aiohttp.ClientSession) -> None:
    for name in ("demo:latest", "org/name:latest", "hf.co/org/name", "org/name"):
        (*_, last), _ = await ask(client, model=name)
        assert last["model"] == name


async def test_a_request_without_anything_loads(client: aiohttp.ClientSession) -> None:
    for path in ("/api/chat", "/api/generate"):
        for fields, reason in (({}, "load"), ({"keep_alive": 0.0}, "unload")):
            async with client.post(path, json={"model": "demo", **fields}) as response:
                line = json.loads(await response.text())
                assert line["done"] and line["done_reason"] == reason
    (*_, last), _ = await ask(client)
    assert last["done_reason"] == "length", "the only model stays"


async def test_bodies_without_a_content_type(server: HttpServer) -> None:
    body = json.dumps({"model": "demo", "messages": HI, "options": GREEDY}).encode()
    form = "application/x-www-form-urlencoded"
    for kind in (form, "text/plain", "application/json"):
        answer = await exchange(server, post(body, "/api/chat", Content_Type=kind))
        assert answer.status == 200
    # A page of another origin gets nothing, with whatever type.
    answer = await exchange(
        server, post(body, "/api/chat", Content_Type=form, Origin="https://evil.example")
    )
    assert answer.status == 403 and "web pages" in answer.json["error"]
    answer = await exchange(server, post(body, "/v1/chat/completions", Content_Type=form))
    assert answer.status == 415


async def test_what_has_no_effect_is_in_a_header(client: aiohttp.ClientSession) -> None:
    options = {**GREEDY, "num_ctx": 8192, "mirostat": 1, "top_k": None, "foo": 1}
    _, headers = await ask(client, options=options, bar=2, think=True)
    found = json.loads(headers[WARNINGS])
    for name in ("options.num_ctx", "options.mirostat", "options.foo", "bar", "think"):
        assert [text for text in found if name in text], name
    assert len(found) == 5
    _, headers = await ask(client)
    assert WARNINGS not in headers


async def test_what_all_protocols_take(client: aiohttp.ClientSession) -> None:
    fields: Any = {"explain_cache": True, "max_tokens": 3, "options": {"num_predict": 2}}
    (*_, last), headers = await ask(client, **fields)
    assert last["eval_count"] == 2 and last["cache_explanation"]["reason"] == "off"
    assert "options.num_predict" in headers[WARNINGS]


async def test_errors_name_what_is_wrong(client: aiohttp.ClientSession) -> None:
    for fields, word in (
        ({"options": {"temperature": 5}}, "options.temperature"),
        ({"options": {"stop": ["a"] * 17}}, "options.stop"),
        ({"keep_alive": "soon"}, "keep_alive"),
        ({"format": "yaml"}, "format"),
        ({"think": "none"}, "think must be true, false,"),
        ({"options": {"num_predict": 2**63}}, "`options.num_predict`: input should be less"),
        ({"options": {"num_predict": 2}, "min_tokens": 3}, "than options.num_predict."),
        ({"options": {"top_k": -2}}, "options.top_k"),
        ({"messages": [{"role": "nobody"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": "a" * (2**20 + 1)}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "images": ["!"]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "tool", "content": "42"}]}, "messages[0]"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
        ({"format": {"type": "notatype"}}, "format"),
    ):
        status, error = await refusal(
            client, "/api/chat", {"model": "demo", "messages": HI, **fields}
        )
        assert status == 400 and word in error, (fields, error)
    assert (await refusal(client, "/api/chat", {"model": "nope", "messages": HI}))[0] == 404
    assert (await refusal(client, "/api/nope", {}))[0] == 404
    status, error = await refusal(client, "/api/embed", {"model": "demo", "input": "a"})
    assert status == 400 and "does not support embeddings" in error
    for path in ("/api/copy", "/api/create", "/api/push", "/api/blobs/sha256:00"):
        assert (await refusal(client, path, {}))[0] == 501


async def test_keys(start: Start) -> None:
    server = await start(api_keys=(SecretStr("key"),))
    body = json.dumps(
        {"model": "demo", "messages": HI, "keep_alive": "5m", "options": GREEDY}
    ).encode()
    answer = await exchange(server, post(body, "/api/chat"))
    assert answer.status == 401 and answer.json.keys() == {"error"}
    answer = await exchange(server, post(body, "/api/chat", Authorization="Bearer key"))
    assert answer.status == 200
    assert "admin" in answer.headers[WARNINGS]
    for path, method in (("/api/delete", b"DELETE"), ("/api/pull", b"POST")):
        raw = post(b'{"model": "org/absent"}', path, Authorization="Bearer key")
        answer = await exchange(server, raw.replace(b"POST", method, 1))
        assert answer.status == 403 and "admin" in answer.json["error"]
    raw = post(b'{"model": "demo", "stream": false}', "/api/pull", Authorization="Bearer key")
    assert (await exchange(server, raw)).json == {"status": "success"}
    for path in ("/api/tags", "/api/version"):
        assert (await exchange(server, get(path))).status == 401


def test_options_by_our_names() -> None:
    assert Options().sampling() == {}
    said = {"num_predict": 5, "repeat_penalty": 1.1, "repeat_last_n": 64, "stop": "x", "seed": 4}
    assert Options(**said).sampling() == {
        "max_tokens": 5,
        "repetition_penalty": 1.1,
        "repetition_window": 64,
        "stop": ("x",),
        "seed": 4,
    }
    assert Options(num_predict=-1, seed=-1, repeat_last_n=-1).sampling() == {"repetition_window": 0}
    assert Options(top_k=-1).sampling() == {"top_k": 0}
    off = Options(repeat_penalty=1.3, repeat_last_n=0).sampling()
    assert off == {"repetition_penalty": 1.0, "repetition_window": 0}


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (5, 5.0),
        (0, 0.0),
        (-1.0, float("inf")),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("-1s", float("inf")),
        ("-1", float("inf")),
        ("300", 300.0),
        ("1500ms", 1.5),
        ("0s", 0.0),
        ("9999999h", float("inf")),
        (10**15, float("inf")),
        (1e300, float("inf")),
    ],
)
def test_how_long_a_model_stays(given: Any, seconds: float) -> None:
    body = OllamaChat.parse({"model": "m", "keep_alive": given})
    assert body.keep_alive == seconds


def test_a_history_without_ids() -> None:
    call = {"function": {"name": "P", "arguments": {"a": 1, "b": "ü"}}}
    history = [
        {"role": "user", "content": "x", "images": ["iVBORw0KGgo="]},
        {"role": "assistant", "thinking": "Hm.", "tool_calls": [call]},
        {"role": "tool", "content": "42", "tool_name": "P"},
    ]
    request = OllamaChat.parse({"model": "m", "messages": history, "think": "low"}).to_request()
    assert request.messages is not None
    user, assistant, result = request.messages
    assert user.shows_images and user.text == "x"
    assert (
        assistant.tool_calls[0].arguments == '{"a": 1, "b": "ü"}' and assistant.reasoning == "Hm."
    )
    assert (result.text, result.name, result.tool_call_id) == ("42", "P", None)
    assert request.chat_template_kwargs == {"reasoning_effort": "low"}
