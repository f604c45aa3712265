"""Memory and time per request stay flat over ten thousand requests (make soak)."""

from __future__ import annotations

import os
import random
import time

import psutil
import pytest

from budmlx.engine.engine import Engine
from tests.models import tiny_model_dir

REQUESTS = int(os.environ.get("SOAK_REQUESTS", "10000"))
AT_ONCE = 64
MIB = 2**20


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_requests_leave_nothing_behind() -> None:
    chance = random.Random(1)
    rss: list[float] = []
    active: list[float] = []
    # KV of former prompts fills its share of the memory; this is about what leaks.
    with Engine.load(tiny_model_dir(scale=4.0), prefix_cache="16MiB") as engine:
        for done in range(0, REQUESTS, AT_ONCE):
            begin = time.perf_counter()
            prompts = ["x" * chance.randrange(1, 200) for _ in range(AT_ONCE)]
            replies = engine.chat_many(
                prompts,
                progress=False,
                max_tokens=chance.randrange(1, 40),
                temperature=chance.choice([0.0, 1.0]),
                frequency_penalty=chance.choice([0.0, 0.5]),
            )
            rate = sum(r.usage.completion_tokens for r in replies) / (time.perf_counter() - begin)
            rss.append(psutil.Process().memory_info().rss / MIB)
            if done % (AT_ONCE * 10) == 0:
                active.append(at_rest(engine))
                print(
                    f"{done + AT_ONCE:6} requests  {rate:7.0f} tok/s  {rss[-1]:6.0f} MiB, "
                    f"of which MLX has {active[-1]:6.2f} at rest"
                )
        active.append(at_rest(engine))
        status = engine.status()
    assert (status.running, status.waiting) == (0, 0)
    settled = rss[len(rss) // 5 :]
    assert settled[-1] - settled[0] <= 25, "memory grows with the number of requests"
    # The memory of a GPU is not part of the process's.
    settled = active[-(-len(active) // 5) :]
    assert settled[-1] - settled[0] <= 2, "MLX's memory grows with the number of requests"


def at_rest(engine: Engine) -> float:
    """MiB of arrays when the core has given back all that it does not use."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        status = engine.status()
        if not status.running and not status.waiting and not status.memory.unused:
            return status.memory.active / MIB
        time.sleep(0.1)
    raise AssertionError("the core never came to rest")
