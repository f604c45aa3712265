"""Requests in the forms of programs that docs/clients.md names, as those look for an Ollama server.

The programs themselves are not run: the forms are what their sources and their users' reports say.
"""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest

from tests.server.conftest import Start

TOOL = {
    "type": "function",
    "function": {
        "name": "light",
        "description": "Turns a light on.",
        "parameters": {"type": "object", "properties": {"on": {"type": "boolean"}}},
    },
}
HI = {"role": "user", "content": "Hello"}


async def read(client: aiohttp.ClientSession, method: str, path: str, **options: Any) -> Any:
    async with client.request(method, path, **options) as response:
        assert response.status == 200, await response.text()
        return json.loads(await response.text())


async def lines(client: aiohttp.ClientSession, path: str, body: Any) -> list[dict[str, Any]]:
    async with client.post(path, json=body) as response:
        assert response.status == 200, await response.text()
        found = [json.loads(line) for line in (await response.text()).splitlines()]
    assert [line["done"] for line in found] == [False] * (len(found) - 1) + [True]
    return found


async def test_zed(client: aiohttp.ClientSession) -> None:
    listed = (await read(client, "GET", "/api/tags"))["models"]
    name = listed[0]["name"]
    shown = await read(client, "POST", "/api/show", json={"model": name})
    assert "tools" in shown["capabilities"]
    body = {
        "model": name,
        "messages": [{"role": "system", "content": "Be short."}, HI],
        "stream": True,
        "keep_alive": -1,
        "think": None,
        "tools": [TOOL],
        "options": {"num_ctx": 4096, "num_predict": 4, "stop": [], "temperature": 1.0},
    }
    for line in await lines(client, "/api/chat", body):
        assert line["message"]["role"] == "assistant"
        assert isinstance(line["message"]["content"], str)


async def test_copilot(client: aiohttp.ClientSession) -> None:
    version = (await read(client, "GET", "/api/version"))["version"]
    assert [int(part) for part in version.split(".")] >= [0, 6, 4]
    for model in (await read(client, "GET", "/api/tags"))["models"]:
        shown = await read(client, "POST", "/api/show", json={"model": model["model"]})
        info = shown["model_info"]
        assert info["general.basename"] and "tools" in shown["capabilities"]
        assert info[f"{info['general.architecture']}.context_length"] > 0
    body = {
        "model": "demo:latest",
        "messages": [HI],
        "stream": True,
        "max_tokens": 4,
        "tools": [TOOL],
        "temperature": 0.1,
        "top_p": 1,
        "n": 1,
    }
    async with client.post("/v1/chat/completions", json=body) as response:
        assert response.status == 200 and "[DONE]" in await response.text()


async def test_continue(client: aiohttp.ClientSession) -> None:
    shown = await read(client, "POST", "/api/show", json={"name": "demo"})
    for line in shown["parameters"].splitlines():
        key, value = line.split(maxsplit=1)
        assert key and value
    options = {"num_predict": 4, "num_ctx": 8192, "stop": ["<|im_end|>"]}
    body = {"model": "demo", "messages": [HI], "options": options, "keep_alive": 1800}
    assert (await lines(client, "/api/chat", body))[-1]["done_reason"]
    raw = {"model": "demo", "raw": True, "prompt": "def f(", "options": options}
    assert "response" in (await lines(client, "/api/generate", raw))[-1]


async def test_open_webui(client: aiohttp.ClientSession) -> None:
    headers = {"X-OpenWebUI-User-Name": "me", "X-OpenWebUI-User-Id": "1"}
    for path in ("/api/tags", "/api/ps", "/api/version"):
        await read(client, "GET", path, headers=headers)
    body = {
        "model": "demo:latest",
        "messages": [HI],
        "options": {"num_predict": 4},
        "stream": True,
    }
    assert len(await lines(client, "/api/chat", body)) > 1
    unload = {"model": "demo:latest", "keep_alive": 0, "prompt": ""}
    async with client.post("/api/generate", json=unload) as response:
        assert response.status == 200


async def test_home_assistant(client: aiohttp.ClientSession) -> None:
    call = {"function": {"name": "light", "arguments": {"on": True}}}
    body = {
        "model": "demo",
        "messages": [
            {"role": "system", "content": "You control lights."},
            HI,
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": '{"success": true}'},
        ],
        "tools": [TOOL],
        "stream": True,
        "format": None,
        "think": False,
        "keep_alive": "-1s",
        "options": {"num_ctx": 8192, "num_predict": 4},
    }
    assert (await lines(client, "/api/chat", body))[-1]["prompt_eval_count"] > 20


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
async def test_obsidian(start: Start, path: str) -> None:
    origin = "app://obsidian.md"
    server = await start(allow_origin=(origin,))
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    async with aiohttp.ClientSession(server.url) as client:
        async with client.options(path, headers=asked) as response:
            assert response.status == 204
            assert response.headers["Access-Control-Allow-Origin"] == origin
        body = {"model": "demo", "messages": [HI], "stream": False, "max_tokens": 4}
        body["options"] = {"num_predict": 4}
        async with client.post(path, json=body, headers={"Origin": origin}) as response:
            assert response.status == 200
            assert response.headers["Access-Control-Allow-Origin"] == origin
