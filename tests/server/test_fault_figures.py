"""Faults of the model's process under load: how long until it is ready again, and what is lost."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from budmlx import Engine
from budmlx.errors import BudmlxError
from tests.models import tiny_model_dir
from tests.recorded.stores import MODEL
from tests.server.tools import CHAT, body, events
from tests.server_process import started

ROOT = Path(__file__).parents[2]
ROUNDS = 4
AT_ONCE = 8
WATCHDOG = 3
PROMPTS = [f"the quick brown fox {number} " * (1 + number % 5) for number in range(12)]


def core_of(server: psutil.Process) -> psutil.Process:
    """The process of the model."""
    return next(each for each in server.children() if "budmlx.core" in each.cmdline())


FAULTS: dict[str, tuple[str, Sequence[Callable[[psutil.Process], None]]]] = {
    "kill -9 and abort": (
        "101",
        [lambda core: core.kill(), lambda core: core.send_signal(signal.SIGABRT)],
    ),
    "stopped": ("104", [lambda core: core.suspend()]),
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
        await asyncio.sleep(0.01)
    while not await load.ready():
        await asyncio.sleep(0.01)
    return time.monotonic() - begin


# LIMITS 101 and 104
@pytest.mark.limits
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_of_the_core_under_load(
    name: str, measured: Callable[[str, str], None]
) -> None:
    row, faults = FAULTS[name]
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
            for number in range(ROUNDS):
                await asyncio.sleep(1)
                fault = faults[number % len(faults)]
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


LARGER = {
    **MODEL,
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}


# LIMITS 138
@pytest.mark.limits
@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform != "linux", reason="others have no limits of other processes")
def test_a_core_that_can_have_no_more_memory(measured: Callable[[str, str], None]) -> None:
    ends: list[str] = []

    def ask(number: int) -> None:
        try:
            prompt = "the quick brown fox " * (300 + number)
            engine.chat(prompt, temperature=0, max_tokens=20, ignore_eos=True)
            ends.append("complete")
        except BudmlxError as error:
            ends.append(str(error.code or "error"))

    short: dict[str, Any] = {"temperature": 0, "max_tokens": 8, "ignore_eos": True}
    path = tiny_model_dir(LARGER, scale=2.0)
    options = {"engine_host": "process", "prefix_cache": "0", "warmup": "off"}
    with Engine.load(path, **options) as engine:
        text, times = engine.chat("Hello", **short).text, []
        for _ in range(2):
            core = core_of(psutil.Process())
            limit = core.memory_info().vms
            core.rlimit(psutil.RLIMIT_AS, (limit, limit))
            begin = time.monotonic()
            askers = [threading.Thread(target=ask, args=(number,)) for number in range(2)]
            for each in askers:
                each.start()
            for each in askers:
                each.join()
            while not engine.status().ready:
                time.sleep(0.01)
            times.append(time.monotonic() - begin)
            assert engine.chat("Hello", **short).text == text
        restarts = engine.status().restarts
    measured(
        "138",
        f"twice: {dict(Counter(ends))}, {restarts} new cores, all over and ready after at most "
        f"{max(times):.1f} s",
    )
    assert len(ends) == 4
