"""What is told of models in Ollama's protocol."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from budmlx.config import Config
from budmlx.engine.models.models import Models
from budmlx.server.app import HttpServer
from budmlx.server.warnings_header import NAME as WARNINGS
from tests.models import tiny_model_dir
from tests.server.tools import until

DETAILS = {
    "parent_model": "",
    "format": "safetensors",
    "family": "llama",
    "families": ["llama"],
    "parameter_size": "106.8K",
    "quantization_level": "F32",
    "context_length": 8192,
}


async def read(client: aiohttp.ClientSession, path: str) -> Any:
    async with client.get(path) as response:
        assert response.status == 200
        return await response.json()


async def test_the_connection(client: aiohttp.ClientSession) -> None:
    async with client.get("/") as response:
        assert await response.text() == "Ollama is running"
    async with client.head("/") as response:
        assert response.status == 200
    version = (await read(client, "/api/version"))["version"]
    assert tuple(map(int, version.split("."))) >= (0, 13, 4)


async def test_tags_and_ps(client: aiohttp.ClientSession) -> None:
    listed = (await read(client, "/api/tags"))["models"]
    assert {"demo:latest", "org/name:latest"} <= {model["name"] for model in listed}
    for model in listed:
        assert model["model"] == model["name"] and model["details"] == DETAILS
        assert re.fullmatch("[0-9a-f]{64}", model["digest"]) and model["size"] > 400_000
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", model["modified_at"])
    (running,) = (await read(client, "/api/ps"))["models"]
    assert running["details"] == DETAILS and running["expires_at"].startswith("23")
    assert running["size"] == running["size_vram"] > 400_000
    assert running["context_length"] == 8192
    assert running["digest"] == listed[0]["digest"]


async def test_show(client: aiohttp.ClientSession) -> None:
    for body in (
        {"model": "demo"},
        {"name": "demo:latest"},
        {"model": "org/name", "verbose": True},
    ):
        async with client.post("/api/show", json=body) as response:
            assert response.status == 200
            shown = await response.json()
        assert shown["details"] == DETAILS
        assert shown["capabilities"] == ["completion", "tools"]
        assert shown["model_info"]["general.architecture"] == "llama"
        assert shown["model_info"]["llama.context_length"] == 8192
        assert shown["model_info"]["llama.embedding_length"] == 64
        lines = shown["parameters"].split("\n")
        assert re.fullmatch(r"num_ctx +8192", lines[0]) and all(map(str.strip, lines))
        assert ".Suffix" not in shown["template"]
    async with client.post("/api/show", json={"model": "nope"}) as response:
        assert response.status == 404 and (await response.json()).keys() == {"error"}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("library")
    for seed, name in enumerate(("org/one", "org/two")):
        shutil.copytree(tiny_model_dir(scale=2.0, seed=seed), root / name)
    return root


class LateNames(Models):
    """As if a model went right after its name was listed."""

    @property
    def names(self) -> tuple[str, ...]:
        return (*super().names, "gone")


async def test_a_model_that_goes_meanwhile_is_left_out(library: Path) -> None:
    config = Config(models_dir=(str(library),), port=0, drain_seconds=0, warmup="off")
    with LateNames(config) as models:
        server = await HttpServer.start(models, config)
        async with aiohttp.ClientSession(server.url) as client:
            listed = (await read(client, "/api/tags"))["models"]
            assert {model["name"] for model in listed} >= {"org/one:latest"}
            assert "gone:latest" not in {model["name"] for model in listed}
        await server.drain()


@pytest.mark.parametrize(("keys", "reason"), [((), "unload"), (("key",), "stop")])
async def test_no_model_is_loaded_to_be_unloaded(
    library: Path, keys: tuple[str, ...], reason: str
) -> None:
    config = Config(
        models_dir=(str(library),),
        port=0,
        drain_seconds=0,
        warmup="off",
        engine_host="thread",
        embed_any=True,
        api_keys=keys,
    )
    body = {"model": "org/one", "keep_alive": 0, "stream": False}
    with Models(config) as models:
        server = await HttpServer.start(models, config)
        headers = {"Authorization": "Bearer key"} if keys else {}
        async with aiohttp.ClientSession(server.url, headers=headers) as client:
            for path in ("/api/chat", "/api/generate", "/api/embed", "/api/embeddings"):
                async with client.post(path, json=body) as response:
                    assert response.status == 200
                    line = await response.json()
                    assert ("admin" in response.headers.get(WARNINGS, "")) == bool(keys)
                if path in ("/api/chat", "/api/generate"):
                    assert line["done_reason"] == reason
        await server.drain()
        assert models.resident("org/one").loads == 0


async def test_models_that_come_and_go(library: Path) -> None:
    config = Config(
        models_dir=(str(library),),
        port=0,
        drain_seconds=0,
        warmup="off",
        engine_host="thread",
        embed_any=True,
    )
    with Models(config) as models:
        server = await HttpServer.start(models, config)
        async with aiohttp.ClientSession(server.url) as client:
            listed = (await read(client, "/api/tags"))["models"]
            names = {model["name"] for model in listed}
            assert {"org/one:latest", "org/two:latest"} <= names
            assert (await read(client, "/api/ps"))["models"] == []
            async with client.post("/api/show", json={"model": "org/one"}) as response:
                shown = await response.json()
            assert shown["details"] == DETAILS
            assert shown["capabilities"] == ["embedding", "completion", "tools"]
            one = models.resident("org/one")
            assert one.state == "unloaded"

            async def load(**fields: Any) -> None:
                body = {"model": "org/one:latest", **fields}
                async with client.post("/api/generate", json=body) as response:
                    assert response.status == 200 and await response.text()

            await load(keep_alive="1h")
            assert one.state == "loaded"
            (running,) = (await read(client, "/api/ps"))["models"]
            assert not running["expires_at"].startswith("23")
            for forever in (-1, "9999999h"):
                await load(keep_alive=forever)
                (running,) = (await read(client, "/api/ps"))["models"]
                assert running["expires_at"].startswith("23")
            models.find("org/one").keep(1e12)  # as settings may say
            (running,) = (await read(client, "/api/ps"))["models"]
            assert running["expires_at"].startswith("23")
            await load(keep_alive=0)
            await until(lambda: one.state == "unloaded")
            await load(prompt="a", options={"num_predict": 1}, keep_alive="0")
            await until(lambda: one.state == "unloaded")
            await load()
            assert one.state == "loaded" and one.idle_until() is None
        await server.drain()
