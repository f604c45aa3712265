"""Work of the host in a step: the Engine's time less that of the bare loop, on a tiny model.

Run as a file, `python -P bench/host_work.py MODEL`, it measures whichever budmlx is on
PYTHONPATH, also an older one: it uses nothing but what is public there.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model as load_with_mlx_lm

from budmlx import Engine, SamplingParams
from budmlx.types import Request

ROWS = {"single": 1, "sixteen": 16}
PROMPT = 16
BASELINE = "BUDMLX_BENCH_BASELINE"
"""Variable with the path of another checkout, which is measured, too."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured. short, long: steps of two runs. rounds: after one that is not."""

    short: int = 20
    long: int = 170
    rounds: int = 3


DEFAULTS = Sizes()


def host_work(_: Path, rounds: int = 2) -> dict[str, Any]:
    """Microseconds a step, and with the prefix `baseline_` those of another checkout."""
    root = Path(__file__).parent.parent
    checkouts = {"": str(root)}
    if baseline := os.environ.get(BASELINE):
        checkouts["baseline_"] = baseline
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        model = str(Path(scratch) / "tiny")
        write = [sys.executable, "-m", "budmlx.testing.tiny_random", model]
        subprocess.run(write, check=True, cwd=root)
        for _ in range(rounds):
            for prefix, checkout in checkouts.items():
                for name, value in _of_checkout(checkout, model).items():
                    found.setdefault(f"{prefix}{name}", []).append(value)
    return {name: statistics.median(values) for name, values in found.items()}


def _of_checkout(checkout: str, model: str) -> dict[str, float]:
    paths = [checkout, os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-P", __file__, model]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(path: Path, sizes: Sizes = DEFAULTS) -> dict[str, float]:
    """Of one and of 16 greedy rows: microseconds of the host, and of a step of the bare loop."""
    found = {}
    model, config = load_with_mlx_lm(path)
    with Engine.load(path, prefix_cache="0") as engine:
        for name, rows in ROWS.items():
            pairs = []
            for number in range(1 + sizes.rounds):
                ids = _prompts(rows, config["vocab_size"], number)
                ours = _difference(partial(_engine, engine, ids), sizes)
                pairs.append((ours, _difference(partial(_bare, model, ids), sizes)))
            found[f"{name}_host"] = statistics.median(ours - bare for ours, bare in pairs[1:])
            found[f"{name}_bare"] = statistics.median(bare for _, bare in pairs[1:])
    return found


def _difference(run: Callable[[int], None], sizes: Sizes) -> float:
    """Microseconds a step, of which beginning and end take no part."""
    times = []
    for steps in (sizes.short, sizes.long):
        begin = time.perf_counter()
        run(steps)
        times.append(time.perf_counter() - begin)
    return 1e6 * (times[1] - times[0]) / (sizes.long - sizes.short)


def _engine(engine: Engine, ids: list[list[int]], steps: int) -> None:
    sampling = SamplingParams(temperature=0, max_tokens=steps, ignore_eos=True)

    async def row(prompt: list[int]) -> None:
        async for _ in engine.aevents(Request(prompt=tuple(prompt), sampling=sampling)):
            pass

    async def all_rows() -> None:
        await asyncio.gather(*map(row, ids))

    asyncio.run(all_rows())


def _bare(model: Any, ids: list[list[int]], steps: int) -> None:
    cache = make_prompt_cache(model)
    tokens = mx.argmax(model(mx.array(ids), cache=cache)[:, -1, :], axis=-1)
    mx.async_eval(tokens)
    for _ in range(steps - 1):
        following = mx.argmax(model(tokens[:, None], cache=cache)[:, -1, :], axis=-1)
        mx.async_eval(following)
        tokens.tolist()
        tokens = following
    tokens.tolist()


def _prompts(rows: int, vocab: int, seed: int) -> list[list[int]]:
    chance = random.Random(seed)
    return [[chance.randrange(vocab) for _ in range(PROMPT)] for _ in range(rows)]


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]))))
