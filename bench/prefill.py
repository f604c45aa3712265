"""Prefill alone: a long prompt in the Engine, and in the bare loop with chunks of several sizes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model as load_with_mlx_lm

from bench.rows import prompts
from budmlx import Engine
from budmlx.types import Request, SamplingParams


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured. prompt, chunks: tokens. rounds: after a first one that is not."""

    prompt: int
    chunks: tuple[int, ...]
    rounds: int = 3


ON_CPU = Sizes(prompt=1000, chunks=(256, 512, 1000))
ON_GPU = Sizes(prompt=8000, chunks=(512, 1024, 2048, 4096, 8192))


def prefill(path: Path, sizes: Sizes | None = None) -> dict[str, Any]:
    """Prompt tokens per second, first token included, nothing else running.

    tokens_per_second: of the Engine, with the numbers that it chooses for the device.
    best_tokens_per_second: of the bare loop at the chunk that is fastest; best_chunk is that.
    """
    sizes = sizes or (ON_GPU if mx.default_device() == mx.gpu else ON_CPU)
    model, config = load_with_mlx_lm(path)
    length = min(sizes.prompt, int(config.get("max_position_embeddings", sizes.prompt)) - 2)
    # Prompts that differ, so that no stored prefix helps.
    fresh = iter(
        prompts((1 + sizes.rounds) * (1 + len(sizes.chunks)), length, config["vocab_size"])
    )
    with Engine.load(path, prefix_cache="0") as engine:
        runs: dict[int, Callable[[list[int]], Any]] = {0: lambda ids: _engine(engine, ids)}
        for chunk in sizes.chunks:
            runs[chunk] = lambda ids, chunk=chunk: _bare(model, ids, chunk)  # type: ignore[misc]
        seconds: dict[int, list[float]] = {chunk: [] for chunk in runs}
        for _ in range(1 + sizes.rounds):
            for chunk, run in runs.items():
                begin = time.perf_counter()
                run(next(fresh))
                seconds[chunk].append(time.perf_counter() - begin)
    rates = {chunk: length / statistics.median(all_[1:]) for chunk, all_ in seconds.items()}
    best = max(sizes.chunks, key=lambda chunk: rates[chunk])
    return {
        "prompt_tokens": length,
        "tokens_per_second": rates[0],
        "best_tokens_per_second": rates[best],
        "best_chunk": best,
        "chunks": {str(chunk): rates[chunk] for chunk in sizes.chunks},
    }


def _engine(engine: Engine, ids: list[int]) -> None:
    sampling = SamplingParams(temperature=0, max_tokens=1, ignore_eos=True)
    for _ in engine.events(Request(prompt=tuple(ids), sampling=sampling)):
        pass


def _bare(model: Any, ids: list[int], chunk: int) -> None:
    cache = make_prompt_cache(model)
    for begin in range(0, len(ids), chunk):
        logits = model(mx.array([ids[begin : begin + chunk]]), cache=cache)
        mx.eval([entry.state for entry in cache])
    mx.argmax(logits[:, -1, :], axis=-1).item()
