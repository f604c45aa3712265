"""Pictures in the Engine: new ones, and one whose embeddings are kept."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from budmlx import Engine, Finished
from budmlx.plugins.vision import Pixels

SIDE = 96
PLUGIN = "budmlx_llava"
SOURCE = Path(__file__).parent.parent / "plugins" / "budmlx-llava"
MODEL = SOURCE / PLUGIN / "assets" / "tiny"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured. tokens: of each reply."""

    users: int = 16
    tokens: int = 32
    rounds: int = 5


DEFAULTS = Sizes()


def images(
    _: Path, sizes: Sizes = DEFAULTS, *, model: Path = MODEL, plugin: str = PLUGIN
) -> dict[str, Any]:
    """Tokens per second, prefill included, and time to the first token of several users.

    Each sends a picture of its own or, with the prefix `seen_`, all the same known one. KV
    is not reused, so that the difference is that of encoding. The model is the plugin's.
    """
    if not (model / "config.json").exists():
        return {"problem": f"not measured: there is no config.json in {model}"}
    if importlib.util.find_spec(plugin) is None:
        sys.path.insert(0, str(SOURCE))
    with Engine.load(model, plugins=[plugin], prefix_cache="0") as engine:
        return asyncio.run(_measure(engine, sizes))


async def _measure(engine: Engine, sizes: Sizes) -> dict[str, float]:
    seeds = itertools.count()
    seen = _noise(next(seeds))
    new_rounds, seen_rounds = [], []
    for _ in range(1 + sizes.rounds):
        new = [_noise(next(seeds)) for _ in range(sizes.users)]
        new_rounds.append(await _round(engine, new, sizes.tokens))
        seen_rounds.append(await _round(engine, [seen] * sizes.users, sizes.tokens))
    found = {}
    # The first of each allocates buffers, and encodes the picture that is seen again.
    for kind, rounds in (("", new_rounds[1:]), ("seen_", seen_rounds[1:])):
        speeds, waits = zip(*rounds, strict=True)
        found[f"{kind}tokens_per_second"] = statistics.median(speeds)
        found[f"{kind}ttft_p50"] = statistics.median(itertools.chain(*waits))
    return found


async def _round(
    engine: Engine, pictures: Sequence[Pixels], tokens_each: int
) -> tuple[float, list[float]]:
    """Tokens per second of concurrent requests, and seconds until each one's first text."""

    async def user(number: int, picture: Pixels) -> tuple[int, float]:
        content = [
            {"type": "text", "text": f"Picture {number}:"},
            {"type": "image", "image": picture},
            {"type": "text", "text": "What is it?"},
        ]
        messages = [{"role": "user", "content": content}]
        sampling = {"temperature": 0, "max_tokens": tokens_each, "ignore_eos": True}
        first = 0.0
        tokens = 0
        async for event in engine.astream(messages, **sampling):
            if isinstance(event, Finished):
                tokens = event.usage.completion_tokens
            first = first or time.perf_counter() - begin
        return tokens, first

    begin = time.perf_counter()
    users = await asyncio.gather(*itertools.starmap(user, enumerate(pictures)))
    seconds = time.perf_counter() - begin
    return sum(tokens for tokens, _ in users) / seconds, [first for _, first in users]


def _noise(seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
