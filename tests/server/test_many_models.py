"""A server with a library of three models and memory for two, asked by the official SDK."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import openai
import psutil
import pytest

from budmlx import Engine
from budmlx.config import Config
from budmlx.engine.models.models import Models
from budmlx.server.app import HttpServer
from tests.models import tiny_model_dir
from tests.server.tools import CHAT, body, check_error, events, exchange, get, post, until

NAMES = ("org/one", "org/two", "org/three")
MIB = 2**20
# Each model needs 32 MiB and its weights, which are half of one.
FOR_TWO = 80 * MIB


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("library")
    for seed, name in enumerate(NAMES):
        shutil.copytree(tiny_model_dir(scale=2.0, seed=seed), root / name)
    broken = root / "org" / "broken"
    shutil.copytree(root / NAMES[0], broken)
    (broken / "model.safetensors").unlink()
    return root


@pytest.fixture
async def server(library: Path) -> AsyncIterator[HttpServer]:
    config = Config(
        models_dir=(str(library),),
        memory_budget=FOR_TWO,
        min_stay=0,
        port=0,
        drain_seconds=0,
        hold_seconds=0.2,
        keepalive_seconds=0.2,
        warmup="off",
        aliases={"gpt-*": "org/one"},
    )
    with Models(config) as models:
        server = await HttpServer.start(models, config)
        yield server
        await server.drain()


def expected(library: Path, prompts: list[str]) -> dict[str, list[str]]:
    """What each model says alone."""
    texts = {}
    for name in NAMES:
        with Engine.load(library / name, warmup="off") as engine:
            replies = engine.chat_many(prompts, progress=False, temperature=0, max_tokens=12)
            texts[name] = [reply.text for reply in replies]
    return texts


async def test_three_models_under_load_in_memory_for_two(
    server: HttpServer, library: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prompts = [f"prompt {number}" for number in range(8)]
    texts = await asyncio.to_thread(expected, library, prompts)
    sdk = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    listed = {model.id: model async for model in sdk.models.list()}
    assert set(NAMES) <= listed.keys() and "org/broken" not in listed
    assert {listed[name].state for name in NAMES} == {"unloaded"}  # type: ignore[attr-defined]

    most, done = 0, asyncio.Event()

    async def watch() -> None:
        nonlocal most
        while not done.is_set():
            engines = server.models.loaded
            found = [each.status() for each in engines]
            most = max(most, sum(each.budget.limit for each in found))
            assert sum(each.memory.active for each in found) <= FOR_TWO
            await asyncio.sleep(0.01)

    async def ask(name: str, number: int) -> None:
        reply = await sdk.chat.completions.create(
            model=name,
            messages=[{"role": "user", "content": prompts[number]}],
            temperature=0,
            max_tokens=12,
        )
        assert reply.choices[0].message.content == texts[name][number], (name, number)

    watching = asyncio.create_task(watch())
    with caplog.at_level(logging.INFO, "budmlx"):
        await asyncio.gather(*(ask(name, n) for n in range(len(prompts)) for name in NAMES))
    done.set()
    await watching
    assert 0 < most <= FOR_TWO
    # Requests that came in turns were answered in as many loads as there are models.
    assert caplog.text.count("is unloaded") == 1
    assert len(server.models.loaded) == 2

    async with aiohttp.ClientSession(server.url) as session:
        states = {each.name: each.state for each in server.models.residents}
        gone = next(name for name in NAMES if states[name] == "unloaded")
        many = [session.post(CHAT, json=body(model=gone, max_tokens=2)) for _ in range(200)]
        caplog.clear()
        with caplog.at_level(logging.INFO, "budmlx"):
            answers = await asyncio.gather(*many)
        assert {each.status for each in answers} == {200}
        assert caplog.text.count("is unloaded") == 1
    await _one_core_dies(server)
    await _routes(server, library)


async def _one_core_dies(server: HttpServer) -> None:
    """The others go on as if nothing had been."""
    one, two = (each for each in server.models.residents if each.engine is not None)
    assert one.engine is not None and two.engine is not None
    async with aiohttp.ClientSession(server.url) as session:
        request = body(max_tokens=300, ignore_eos=True, seed=5, temperature=1)

        async def text(model: str) -> str:
            async with session.post(CHAT, json={**request, "model": model}) as answer:
                message: str = (await answer.json())["choices"][0]["message"]["content"]
                return message

        before = await text(one.name), await text(two.name)
        running = asyncio.gather(text(one.name), text(two.name))
        await until(lambda: one.engine.status().running > 0)  # type: ignore[union-attr]
        cores = [each for each in psutil.Process().children() if "budmlx.core" in each.cmdline()]
        assert len(cores) == 2
        cores[0].kill()
        assert await running == list(before)
    assert one.engine.status().restarts + two.engine.status().restarts == 1


async def _routes(server: HttpServer, library: Path) -> None:
    """Names, states, and what needs rights."""
    answer = await exchange(server, post(json.dumps(body(model="gpt-4o")).encode()))
    assert answer.status == 200
    (loaded, *_) = [each.name for each in server.models.residents if each.engine is not None]
    unload = json.dumps({"model": loaded}).encode()
    path = "/v1/models/unload"
    for header in ("X-Forwarded-For", "Forwarded"):
        refused = await exchange(server, post(unload, path, **{header: "127.0.0.1"}))
        check_error(refused, 403, code="admin_only")
    found = (await exchange(server, get(f"/v1/models/{loaded}"))).json
    assert found["residence"]["weights"] > 0 and found["state"] == "loaded"
    assert 0 < found["max_model_len"] < 8192
    answer = await exchange(server, post(unload, path))
    assert answer.json["state"] == "unloaded" and "residence" not in answer.json
    # A stream begins before its model is there, and says that it is alive.
    stream = body(model=loaded, max_tokens=2, stream=True)
    answer = await exchange(server, post(json.dumps(stream).encode()))
    opening, _, rest = answer.content.partition(b": ping")
    assert rest.count(b": ping") > 0 and b'"delta":{"content"' not in opening
    assert events(answer.content)[-1] == "[DONE]"
    (timing,) = [e["time_info"] for e in events(answer.content)[:-1] if "time_info" in e]
    assert timing["queue_time"] > 0.4
    answer = await exchange(server, post(unload, "/v1/models/load"))
    assert answer.json["state"] == "loaded"
    check_error(await exchange(server, post(b'{"model": "nope"}', path)), 404)
    check_error(await exchange(server, post(b'{"modell": "nope"}', path)), 400, param="model")
    raw = get(f"/v1/models/{loaded}").replace(b"GET", b"DELETE", 1)
    check_error(await exchange(server, raw), 400, param="model")
    assert (library / loaded).exists()
