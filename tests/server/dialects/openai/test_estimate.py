"""What a chat would take, against what it takes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from budmlx import Engine
from budmlx.config import Config, ModelConfig
from budmlx.engine.models.models import Models
from budmlx.server.app import HttpServer
from tests.adapters import write_mlx
from tests.models import tiny_model_dir
from tests.server.tools import CHAT, Answer, body, check_error, exchange, post

PATH = "/v1/estimate"
LOAD, UNLOAD = "/v1/models/load", "/v1/models/unload"
MIB = 2**20


async def ask(server: HttpServer, fields: dict[str, Any], path: str = PATH) -> Answer:
    return await exchange(server, post(json.dumps(fields).encode(), path))


async def test_an_estimate_is_what_the_request_takes_afterwards() -> None:
    with Engine.load(tiny_model_dir(scale=2.0), prefix_cache="64MiB", warmup="off") as engine:
        server = await HttpServer.start(Models.of(engine, ("demo",)), Config(port=0))
        long = body("word " * 100)
        first = (await ask(server, long)).json
        usage = (await ask(server, long, CHAT)).json["usage"]
        assert first["prompt_tokens"] == usage["prompt_tokens"]
        assert (first["cached_tokens"], first["expected_wait"]) == (0, None)
        assert (first["state"], first["to_unload"], first["fits"]) == ("loaded", [], True)
        second = (await ask(server, long)).json
        again = (await ask(server, long, CHAT)).json["usage"]
        cached = again["prompt_tokens_details"]["cached_tokens"]
        assert second["cached_tokens"] == cached > 100
        assert second["expected_wait"] > 0 and second["max_tokens"] == 8
        # Another key has nothing of it.
        salted = (await ask(server, {**long, "cache_salt": "other"})).json
        assert salted["cached_tokens"] == 0
        assert engine.estimate("word " * 100).prompt_tokens == usage["prompt_tokens"]
        check_error(await ask(server, body(temperature=-1)), 400, param="temperature")
        check_error(await ask(server, {**long, "model": "nope"}), 404)
        check_error(await ask(server, body("word " * 9000)), 400, code="context_length_exceeded")
        odd = (await ask(server, {**long, "oddity": 1})).json
        assert "oddity" in odd["warnings"][0]
        await server.drain()


async def test_models_that_are_not_loaded_are_estimated_from_their_files(tmp_path: Path) -> None:
    for seed, name in enumerate(("one", "two", "three")):
        shutil.copytree(tiny_model_dir(seed=seed), tmp_path / "org" / name)
    adapter = write_mlx(tmp_path / "adapter", tiny_model_dir())
    config = Config(
        models_dir=(str(tmp_path / "org"),),
        memory_budget=80 * MIB,  # two of them
        min_stay=0,
        engine_host="thread",
        warmup="off",
        port=0,
        models={
            "one": ModelConfig(system_prompt="Answer in rhymes.", adapter=(f"own={adapter}",)),
            "two": ModelConfig(context_limit=50),
        },
    )
    with Models(config) as models:
        server = await HttpServer.start(models, config)

        async def of(model: str, text: str = "word", **extra: object) -> dict[str, Any]:
            answer = await ask(server, {**body(text), "model": model, **extra})
            assert answer.status == 200, answer.json
            found: dict[str, Any] = answer.json
            return found

        first = await of("one", "word " * 100)
        assert (first["state"], first["cached_tokens"], first["fits"]) == ("unloaded", 0, True)
        assert (first["to_unload"], first["expected_wait"]) == ([], None)
        assert first == await of("one:own", "word " * 100)
        assert (await of("three", temperature=0, tools=[]))["prompt_tokens"] < 40
        assert not models.loaded
        for name in ("one", "two"):
            await exchange(server, post(json.dumps({"model": name}).encode(), LOAD))
        loaded = await of("one", "word " * 100)
        same = ("prompt_tokens", "max_tokens", "fits", "cached_tokens", "to_unload")
        assert [loaded[key] for key in same] == [first[key] for key in same]
        third = await of("three", adapter="")
        assert (third["state"], third["to_unload"]) == ("unloaded", ["two"])
        # What memory holds is nearly what it turns out to be.
        parts = models.outlook(models.find("three"))
        assert parts[0] == ["two"] and parts[1] is not None and 39 * MIB < parts[1] < 41 * MIB
        await exchange(server, post(json.dumps({"model": "two"}).encode(), UNLOAD))
        after = await of("two")
        assert after["expected_wait"] > 0 and after["max_tokens"] == 8
        for extra, status, fields in (
            ({"adapter": "other"}, 404, {"param": "adapter"}),
            ({"temperature": -1}, 400, {"param": "temperature"}),
            (
                {"messages": body("word " * 50)["messages"]},
                400,
                {"code": "context_length_exceeded"},
            ),
        ):
            failed = await ask(server, {**body("word"), "model": "two", **extra})
            check_error(failed, status, **fields)
        assert [each.name for each in models.residents if each.state == "loaded"] == ["one"]
        await server.drain()


async def test_what_has_no_room_does_not_fit(tmp_path: Path) -> None:
    for seed, name in enumerate(("one", "two")):
        shutil.copytree(tiny_model_dir(seed=seed), tmp_path / "org" / name)
    values = {"models_dir": (str(tmp_path / "org"),), "warmup": "off", "port": 0}
    values["engine_host"] = "thread"
    pinned = {"one": ModelConfig(pin=True)}
    for memory, fits in ((50 * MIB, False), ("auto", True)):
        config = Config(**values, memory_budget=memory, models=pinned)
        with Models(config) as models:
            server = await HttpServer.start(models, config)
            if not fits and fits is not None:
                models.load("one")
            found = (await ask(server, {**body("word"), "model": "two"})).json
            assert (found["fits"], found["to_unload"]) == (fits, [])
            await server.drain()
