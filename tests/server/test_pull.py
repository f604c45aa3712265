"""Models are fetched from a hub, listed, answered with and deleted again, all over HTTP."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from budmlx.engine.models.shares import LEAST_WORK
from tests.hub_server import Hub
from tests.model_folders import snapshot
from tests.models import tiny_model_dir
from tests.server_process import started


def call(url: str, method: str = "GET", **fields: Any) -> tuple[int, bytes]:
    body = json.dumps(fields).encode() if fields else None
    headers = {"Content-Type": "application/json"} if fields else {}
    request = urllib.request.Request(url, body, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=100) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def names(url: str) -> set[str]:
    return {model["id"] for model in json.loads(call(f"{url}/v1/models")[1])["data"]}


def pulled(url: str, **fields: str) -> list[dict[str, Any]]:
    status, data = call(f"{url}/v1/models/pull", "POST", **fields)
    assert status == 200, data
    return [json.loads(line[6:]) for line in data.decode().splitlines() if line]


@contextmanager
def served(hub: Hub, home: Path, *more: str) -> Iterator[str]:
    """The address of a server that has nothing but what it fetches from a hub."""
    options = ["--port", "0", "--warmup", "off", *(more or ["--pull-on-demand"])]
    environment = hub.environment(home) | {"HOME": str(home)}
    with started(*options, environment=environment) as (url, _):
        yield url


def test_a_model_comes_and_goes(tmp_path: Path) -> None:
    files = {file.name: file.read_bytes() for file in tiny_model_dir().iterdir()}
    cut = {**files, "config.json": b"{}"}
    with Hub({"org/tiny": {"main": files, "old": cut}}) as hub, served(hub, tmp_path) as url:
        _comes_and_goes(url, hub)


def _comes_and_goes(url: str, hub: Hub) -> None:
    assert "org/tiny" not in names(url)
    for wrong in ({"model": "org/absent"}, {"model": "org/tiny", "revision": "none"}):
        status, data = call(f"{url}/v1/models/pull", "POST", **wrong)
        assert status == 400 and json.loads(data)["error"]["param"] == "model"
    events = pulled(url, model="org/tiny")
    assert {event["stage"] for event in events} <= {"downloading", "done"}
    assert events[-1]["stage"] == "done" and events[-1]["done"] == events[-1]["total"] > 400_000
    assert "org/tiny" in names(url)
    chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    status, data = call(f"{url}/v1/chat/completions", "POST", model="org/tiny", **chat)
    assert status == 200, data
    model = f"{url}/v1/models/org/tiny"
    status, data = call(model, "DELETE")
    assert status == 400 and b"unload" in data
    assert call(f"{url}/v1/models/unload", "POST", model="org/tiny")[0] == 200
    status, data = call(model, "DELETE")
    assert status == 200 and json.loads(data)["freed"] > 400_000
    assert "org/tiny" not in names(url) and call(model, "DELETE")[0] == 404


def test_other_names_of_models(tmp_path: Path) -> None:
    files = {file.name: file.read_bytes() for file in tiny_model_dir().iterdir()}
    cache = tmp_path / "hub"
    path = snapshot(cache, "org/tiny", files)
    snapshot(cache, "org/spare", files)
    with Hub({"org/tiny": {"main": files}}) as hub:
        options = [str(path), "--alias", "mine", "--default-model", "mine"]
        with served(hub, tmp_path, *options) as url:
            chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
            for name in ("mine", "org/tiny", "org/absent"):
                assert call(f"{url}/v1/chat/completions", "POST", model=name, **chat)[0] == 200
            # What answers to unknown names is not what is to be fetched.
            for name, status in (("mine", 200), ("org/absent", 400)):
                assert call(f"{url}/api/pull", "POST", model=name, stream=False)[0] == status
            # Files that are in use stay, by whatever name; others go, whatever name they have.
            status, data = call(f"{url}/v1/models/org/tiny", "DELETE")
            assert status == 400 and b"unload" in data
            assert path.exists()
            assert call(f"{url}/v1/models/org/spare", "DELETE")[0] == 200


GIVEN_UP = """
import asyncio, gc
from budmlx.config import Config
from budmlx.engine.models.models import Models
from budmlx.server.model_files import pulling
async def main():
    async def follow():
        async for _ in pulling(models, "org/tiny"):
            pass
    with Models(Config()) as models:
        following = asyncio.create_task(follow())
        await asyncio.to_thread(input)
        following.cancel()
        await asyncio.wait([following])
        del following
        print("gone", flush=True)
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others)
            del others
        gc.collect()
asyncio.run(main())
"""


def test_a_pull_that_is_given_up_leaves_no_task(tmp_path: Path) -> None:
    files = {file.name: file.read_bytes() for file in tiny_model_dir().iterdir()}
    with Hub({"org/tiny": {"main": files}}, stall={"model.safetensors"}) as hub:
        process = subprocess.Popen(
            [sys.executable, "-c", GIVEN_UP],
            env=hub.environment(tmp_path) | {"HOME": str(tmp_path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None and process.stdout is not None
        assert hub.stalled.wait(60)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "gone\n"
        hub.resume.set()
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "Task" not in errors


def _pull(url: str) -> None:
    with suppress(OSError, http.client.HTTPException):  # the server ends meanwhile
        call(f"{url}/v1/models/pull", "POST", model="org/tiny")


@pytest.mark.parametrize("by", ["chat", "pull"])
def test_a_server_ends_although_the_hub_stalls(tmp_path: Path, by: str) -> None:
    files = {file.name: file.read_bytes() for file in tiny_model_dir().iterdir()}
    environment = {"HOME": str(tmp_path), "HF_HUB_DOWNLOAD_TIMEOUT": "300"}
    options = ["--port", "0", "--warmup", "off", "--pull-on-demand", "--load-wait", "0"]
    with (
        Hub({"org/tiny": {"main": files}}, stall={"model.safetensors"}) as hub,
        started(*options, environment=hub.environment(tmp_path) | environment) as (url, process),
    ):
        if by == "chat":
            chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
            assert call(f"{url}/v1/chat/completions", "POST", model="org/tiny", **chat)[0] == 503
        else:
            threading.Thread(target=_pull, args=(url,), daemon=True).start()
        assert hub.stalled.wait(60)
        process.terminate()
        assert process.wait(60) == 0


def test_a_model_comes_and_goes_in_the_words_of_ollama(tmp_path: Path) -> None:
    files = {file.name: file.read_bytes() for file in tiny_model_dir().iterdir()}
    with Hub({"org/tiny": {"main": files}}) as hub, served(hub, tmp_path) as url:
        api = f"{url}/api"
        status, data = call(f"{api}/pull", "POST", model="org/absent")
        assert status == 400 and json.loads(data).keys() == {"error"}
        status, data = call(f"{api}/pull", "POST", model="org/tiny:latest")
        lines = [json.loads(line) for line in data.splitlines()]
        first, *pieces, last = lines
        assert status == 200 and first == {"status": "pulling manifest"}
        assert last == {"status": "success"} and pieces
        for piece in pieces:
            assert piece["status"] == f"pulling {piece['digest'][7:19]}"
            assert 0 <= piece["completed"] <= piece["total"] > 400_000
        # What is here is not fetched again, so that clients may always ask for it.
        status, data = call(f"{api}/pull", "POST", name="org/tiny", stream=False)
        assert status == 200 and json.loads(data) == {"status": "success"}
        listed = json.loads(call(f"{api}/tags")[1])["models"]
        assert "org/tiny:latest" in {model["name"] for model in listed}
        status, data = call(f"{api}/delete", "DELETE", model="org/tiny:latest")
        assert status == 200
        assert "org/tiny" not in names(url)
        assert call(f"{api}/delete", "DELETE", model="org/tiny")[0] == 404


def test_models_that_requests_fetch_share_the_memory(tmp_path: Path) -> None:
    files = {file.name: file.read_bytes() for file in tiny_model_dir().iterdir()}
    weights = len(files["model.safetensors"])
    # One of them, and all but the weights of another.
    budget = 2 * LEAST_WORK + weights + weights // 2
    hub = Hub({"org/one": {"main": files}, "org/two": {"main": files}})
    shutil.copytree(tiny_model_dir(), tmp_path / "here" / "small")
    options = ["--pull-on-demand", "--memory-budget", str(budget), "--min-stay", "0"]
    options += ["--models-dir", str(tmp_path / "here")]
    with hub, served(hub, tmp_path, *options) as url:
        for name in ("org/one", "org/two"):
            chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
            status, data = call(f"{url}/v1/chat/completions", "POST", model=name, **chat)
            assert status == 200, data
        listed = json.loads(call(f"{url}/v1/models")[1])["data"]
        states = {each["id"]: each["state"] for each in listed if each["id"] in hub.repositories}
        assert states == {"org/one": "unloaded", "org/two": "loaded"}
