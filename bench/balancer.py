"""What a balancer costs: streams through nginx and HAProxy, against the same without them."""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from bench.fronts import balanced, program
from budmlx.benchmark.load import chat_body, closed_loop, random_prompt, summarize
from budmlx.benchmark.server_process import ServerProcess

ALONE = "alone"
NAMES = ("nginx", "haproxy")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured. requests: of all users together, in each of the rounds."""

    users: int = 32
    requests: int = 64
    tokens: int = 32
    words: int = 30
    rounds: int = 3


DEFAULTS = Sizes()


def balancer(path: Path, sizes: Sizes = DEFAULTS) -> dict[str, float]:
    """Tokens a second of a server, and of it behind each balancer as a share of that.

    Both addresses of a balancer are that of the server, so that nothing but its work is added.
    Shares are medians over rounds, in which the ways take turns; those of balancers that are not
    installed are missing.
    """
    command = [sys.executable, "-m", "budmlx", "serve", str(path)]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(ServerProcess(command, log=folder / "log"))
        urls = {ALONE: server.url}
        port = urlsplit(server.url).port
        assert port is not None
        for name in filter(program, NAMES):
            front = stack.enter_context(balanced(name, port, port, folder / name))
            urls[name] = front.url
        rates: dict[str, list[float]] = {name: [] for name in urls}
        _rate(server.url, server.model, sizes, "warm")
        for number in range(sizes.rounds):
            for name in sorted(urls, reverse=number % 2 == 1):
                rates[name].append(_rate(urls[name], server.model, sizes, f"{name} {number}"))
    found = {"tokens_per_second": statistics.median(rates[ALONE])}
    for name in rates.keys() - {ALONE}:
        pairs = zip(rates[name], rates[ALONE], strict=True)
        found[name] = statistics.median(through / alone for through, alone in pairs)
    return found


def _rate(url: str, model: str, sizes: Sizes, label: str) -> float:
    """Tokens a second of all users together."""
    chance = random.Random(label)
    bodies = [
        chat_body(
            model,
            random_prompt(chance, sizes.words, f"{label} {number}"),
            sizes.tokens,
            temperature=0,
            ignore_eos=True,
        )
        for number in range(sizes.requests)
    ]
    summary = summarize(asyncio.run(closed_loop(url, bodies, sizes.users)))
    if summary.problem:
        raise RuntimeError(f"{url}: {summary.problem}")
    return summary.tokens_per_second
