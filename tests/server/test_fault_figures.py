"""Faults of the model's process under load: how long until it is ready again, and what is lost."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from tests.models import tiny_model_dir
from tests.server.tools import CHAT, body, events
from tests.server_process import started

ROOT = Path(__file__).parents[2]
ROUNDS = 5
AT_ONCE = 8
WATCHDOG = 3
PROMPTS = [f"the quick brown fox {number} " * (1 + number % 5) for number in range(12)]


def core_of(server: psutil.Process) -> psutil.Process:
    """The process of the model."""
    return next(each for each in server.children() if "budmlx.core" in each.cmdline())


def no_more_memory(core: psutil.Process) -> None:
    """Let no further page be had."""
    limit = core.memory_info().vms
    core.rlimit(psutil.RLIMIT_AS, (limit, limit))


FAULTS: dict[str, tuple[str, Callable[[psutil.Process], None]]] = {
    "kill -9": ("101", lambda core: core.kill()),
    "abort": ("101", lambda core: core.send_signal(signal.SIGABRT)),
    "stopped": ("104", lambda core: core.suspend()),
    "no more memory": ("138", no_more_memory),
}


class Load:
    """Clients that ask one request after the other, and count how each of them ended."""

    def __init__(self, client: aiohttp.ClientSession):
        self.ends: Counter[str] = Counter()
        self.texts: dict[str, str] = {}
        self.over = False
        self._client = client

    async def ask(self, prompt: str) -> None:
        """One stream to its end."""
        request = body(prompt, stream=True, max_tokens=60, ignore_eos=True)
        try:
            async with self._client.post(CHAT, json=request) as response:
                content = await response.read()
                told: list[Any] = events(content) if response.status == 200 else [{"error": 1}]
        except (aiohttp.ClientError, AssertionError):
            self.ends["lost"] += 1
            return
        if told and told[-1] == "[DONE]":
            text = "".join(each["choices"][0]["delta"].get("content") or "" for each in told[:-1])
            same = self.texts.setdefault(prompt, text) == text
            self.ends["complete" if same else "wrong"] += 1
        else:
            self.ends["error" if told and "error" in told[-1] else "lost"] += 1

    async def go_on(self, number: int) -> None:
        """Ask until it is over."""
        while not self.over:
            await self.ask(PROMPTS[number % len(PROMPTS)])
            number += AT_ONCE

    async def ready(self) -> bool:
        """Whether the server says so."""
        async with self._client.get("/ready") as response:
            return response.status == 200


async def strike(
    load: Load, server: psutil.Process, fault: Callable[[psutil.Process], None]
) -> float:
    """Do it, and wait until another process is ready; returns the seconds."""
    core, begin = core_of(server), time.monotonic()
    fault(core)
    while core.is_running() and core.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() - begin > 20:  # It goes on: without memory requests may do, too.
            break
        await asyncio.sleep(0.01)
    while not await load.ready():
        await asyncio.sleep(0.01)
    return time.monotonic() - begin


# LIMITS 101, 104 and 138
@pytest.mark.limits
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_of_the_core_under_load(
    name: str, measured: Callable[[str, str], None]
) -> None:
    if name == "no more memory" and sys.platform != "linux":
        pytest.skip("no limit of the memory of another process but on Linux")
    row, fault = FAULTS[name]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "BUDMLX_DEVICE": "cpu"}
    options = (str(tiny_model_dir(scale=2.0)), "--port", "0", "--alias", "demo")
    more = ("--watchdog-seconds", str(WATCHDOG), "--prefix-cache", "0", "--warmup", "off")
    with started(*options, *more, environment=environment) as (url, process):
        server = psutil.Process(process.pid)
        async with aiohttp.ClientSession(url) as client:
            load = Load(client)
            for prompt in PROMPTS:
                await load.ask(prompt)
            clients = [asyncio.create_task(load.go_on(number)) for number in range(AT_ONCE)]
            await asyncio.sleep(1)
            before, times = server.memory_info().rss, []
            for _ in range(ROUNDS):
                await asyncio.sleep(1)
                times.append(await strike(load, server, fault))
            load.over = True
            await asyncio.gather(*clients)
            for prompt in PROMPTS:
                await load.ask(prompt)
            grown = (server.memory_info().rss - before) / 2**20
    told = json.dumps(dict(load.ends))
    measured(
        row,
        f"{name}, {ROUNDS} times: ready after at most {max(times):.1f} s, {told}, memory of the "
        f"server +{grown:.1f} MiB",
    )
    assert load.ends["lost"] == load.ends["wrong"] == 0, load.ends
    assert load.ends["complete"] > 2 * len(PROMPTS) and grown < 25
