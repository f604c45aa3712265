"""Half an hour of everything at once: nothing is lost, left over, or told (make soak)."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.measured import Measured
from tests.soak.clients import Clients
from tests.soak.requests import PLANTED
from tests.soak.world import ADMIN, KEY, Collector, Figures, World

REQUESTS = int(os.environ.get("SOAK_REQUESTS", "10000"))
MINUTES = float(os.environ.get("SOAK_MINUTES", 30 * REQUESTS / 10_000))
ROUNDS = 12
GROWTH = 25
"""Most MiB that a process may grow by after a fifth of the time."""


@pytest.mark.soak
@pytest.mark.timeout(120 * MINUTES + 600)
def test_everything_at_once(tmp_path: Path, measured: Measured) -> None:  # LIMITS L14
    world = World(tmp_path, traces=True)
    try:
        clients = Clients(world)
        world.at_rest()
        before, seen = world.figures(), []
        for number in range(ROUNDS):
            clients.run(60 * MINUTES / ROUNDS, seed=number)
            assert not clients.faults, "\n".join(clients.faults)
            world.at_rest()
            seen.append(world.figures())
            tell(number, clients, seen[-1])
        clients.check_canaries()
        world.at_rest()
        measured("L14", about(clients, before, seen))
        check(before, seen)
        public = {
            "metrics": world.ask("/metrics").content.decode(),
            "arguments": str([each.cmdline() for each in (world.server, *world.cores())]),
            "errors": str(clients.refused),
        }
        cores = world.cores()
        assert world.stop() == 0
        assert not [core for core in cores if core.is_running()]
        assert not kept_in(world.directory / "tmp")
        public |= {
            "log": "".join(path.read_text() for path in tmp_path.glob("log*")),
            "stderr": (tmp_path / "errors").read_text(),
            "stdout": world.output,
            "traces": str(Collector.spans),
        }
    finally:
        world.close()
    assert "/v1/chat/completions" in public["log"] and Collector.spans
    for where, text in public.items():
        for secret in (KEY, ADMIN, PLANTED):
            assert secret not in text, where
    assert "Traceback" not in public["log"] + public["stderr"]


def tell(number: int, clients: Clients, now: Figures) -> None:
    """A line for whoever waits."""
    rss = " ".join(f"{each:.0f}" for each in now.rss)
    print(
        f"{time.strftime('%H:%M:%S')} round {number + 1}: {clients.ended.total()} requests; MiB "
        f"{rss}; {now.threads} threads, {now.files} files"
    )


def about(clients: Clients, before: Figures, seen: list[Figures]) -> str:
    """What was done, and what is held after it."""
    kinds: Counter[str] = Counter()
    for name, count in clients.ended.items():
        kinds[name.partition(":")[0]] += count
    settled, last = seen[len(seen) // 5], seen[-1]
    return (
        f"{MINUTES:g} minutes, {kinds.total()} deeds: {kinds['canary']} marked ones as ever, "
        f"{kinds['leave']} left, {kinds['kill']} cores killed; the server grew by "
        f"{last.rss[0] - settled.rss[0]:.1f} MiB, the largest core by "
        f"{max(last.rss[1:]) - max(settled.rss[1:]):.1f}; files {last.files - before.files:+}, "
        f"threads {last.threads - before.threads:+}; keys and prompts nowhere"
    )


def check(before: Figures, seen: list[Figures]) -> None:
    """Nothing grows with the number of requests."""
    settled, last = seen[len(seen) // 5], seen[-1]
    assert last.rss[0] - settled.rss[0] <= GROWTH, "memory of the server"
    # A core that was killed began anew.
    assert max(last.rss[1:]) - max(settled.rss[1:]) <= GROWTH, "memory of the cores"
    assert last.files <= before.files + 3, (before, last)
    assert last.threads <= before.threads + 40, (before, last)  # pools, which have a limit


def kept_in(directory: Path) -> list[Path]:
    """Files that are left, without the kernels that MLX builds on the CPU."""
    return [path for path in directory.rglob("*") if path.relative_to(directory).parts[0] != "mlx"]
