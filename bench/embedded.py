"""Measurements without a server: `python -m bench.embedded WHAT MODEL`, one JSON line.

bare: a loop of `model(tokens, cache)` and argmax, the most that any engine could reach, and what
the users of greedy-16 would get from it.
core: the scheduler alone. engine: the embedded Engine, text included.
long-row: the cost of one long row for the short ones beside it, in time and memory.
prefill, sampled-step, adapters, models, host-work, prefix, images, speculation, balancer, ranks,
background: see `bench.prefill`, `bench.sampled_step`, `bench.adapters`, `bench.models`,
`bench.host_work`, `bench.reuse`, `bench.pictures`, `bench.speculation`, `bench.balancer`,
`bench.ranks` and `bench.background`.
vectors, vectors-mixed, vectors-memory, vectors-chat: see `bench.vectors`.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model as load_with_mlx_lm

from bench.adapters import adapters
from bench.background import background
from bench.balancer import balancer
from bench.host_work import host_work
from bench.models import several
from bench.pictures import images
from bench.prefill import prefill
from bench.ranks import ranks
from bench.reuse import prefix
from bench.rows import greedy, load, new_scheduler, prompts
from bench.sampled_step import sampled_step
from bench.speculation import speculation
from bench.vectors import mixed_vectors, vectors, vectors_beside_chat, vectors_memory
from budmlx import Engine, Finished
from budmlx.core.schedule.scheduler import Scheduler
from budmlx.types import Request, SamplingParams

ROWS = 16
# A prompt of the closed loops with its template, and their mean reply.
PROMPT, REPLY = 48, 64
SHORT_ROWS, SHORT_PROMPT = 15, 60


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured.

    settle: steps at the beginning that are not measured, in which buffers are allocated.
    long_prompt: tokens. long_row_steps: with the long row, and then without.
    """

    steps: int = 240
    settle: int = 16
    long_prompt: int = 4000
    long_row_steps: int = 60


DEFAULTS = Sizes()


def bare(path: Path, sizes: Sizes = DEFAULTS) -> dict[str, float]:
    """Tokens per second of the model alone, with the next step dispatched ahead."""
    model, config = load_with_mlx_lm(path)
    ids = mx.array(prompts(ROWS, PROMPT, config["vocab_size"]))
    rate = _bare_rate(model, ids, sizes)
    prompt = statistics.median(_prompt_seconds(model, ids[:1]) for _ in range(9))
    return {
        "tokens_per_second": rate,
        "single_tokens_per_second": _bare_rate(model, ids[:1], sizes),
        "closed_loop_tokens_per_second": REPLY / (prompt + REPLY / rate),
    }


def _bare_rate(model: Any, ids: mx.array, sizes: Sizes) -> float:
    """Tokens per second of rows that have the prompts `ids` [rows, tokens]."""
    cache = make_prompt_cache(model)
    tokens = mx.argmax(model(ids, cache=cache)[:, -1, :], axis=-1)
    mx.eval(tokens)
    start = 0.0
    for step in range(sizes.steps):
        if step == sizes.settle:
            start = time.perf_counter()
        following = mx.argmax(model(tokens[:, None], cache=cache)[:, -1, :], axis=-1)
        mx.async_eval(following)
        tokens.tolist()
        tokens = following
    return ids.shape[0] * (sizes.steps - sizes.settle) / (time.perf_counter() - start)


def _prompt_seconds(model: Any, ids: mx.array) -> float:
    """Seconds that one prompt takes on its own."""
    cache = make_prompt_cache(model)
    begin = time.perf_counter()
    model(ids, cache=cache)
    mx.eval([entry.state for entry in cache])
    return time.perf_counter() - begin


def core(path: Path, sizes: Sizes = DEFAULTS) -> dict[str, float]:
    """Tokens per second of the scheduler, without text."""
    model = load(path)
    scheduler = new_scheduler(model)
    for index, ids in enumerate(prompts(ROWS, PROMPT, model.info.vocab_size)):
        scheduler.submit(greedy(index, ids, 10 * sizes.steps))
    while len(scheduler.step().tokens) < ROWS:
        pass
    durations = _step_times(scheduler, sizes.steps)[sizes.settle :]
    return {"tokens_per_second": ROWS * len(durations) / sum(durations)}


def engine(path: Path, sizes: Sizes = DEFAULTS) -> dict[str, float]:
    """Tokens per second of concurrent async streams of the embedded Engine."""
    with Engine.load(path) as loaded:
        return {
            "tokens_per_second": asyncio.run(_stream_all(loaded, ROWS, sizes)),
            "single_tokens_per_second": asyncio.run(_stream_all(loaded, 1, sizes)),
        }


def _users_rate(loaded: Engine, rows: int, steps: int) -> float:
    """Tokens a second of so many rows at once."""
    return asyncio.run(_stream_all(loaded, rows, Sizes(steps=steps)))


async def _stream_all(loaded: Engine, rows: int, sizes: Sizes) -> float:
    sampling = SamplingParams(temperature=0, max_tokens=sizes.steps + sizes.settle, ignore_eos=True)

    async def stream(ids: list[int]) -> list[float]:
        """The times at which the pieces of text came."""
        times = []
        async for event in loaded.aevents(Request(prompt=tuple(ids), sampling=sampling)):
            if not isinstance(event, Finished):
                times.append(time.perf_counter())
        return times

    ids = prompts(rows, PROMPT, loaded.info.vocab_size)
    all_times = await asyncio.gather(*(stream(row) for row in ids))
    # All rows run between the last one's start and the first one's end.
    start = max(times[sizes.settle] for times in all_times)
    end = min(times[-1] for times in all_times)
    if start >= end:
        raise ValueError("the rows were not all running at any time")
    pieces = sum(start < when <= end for times in all_times for when in times)
    per_piece = rows * (sizes.steps + sizes.settle) / sum(map(len, all_times))
    return pieces * per_piece / (end - start)


def long_row(path: Path, sizes: Sizes = DEFAULTS) -> dict[str, float]:
    """Step times of short rows without and with a long row beside them, and peak memory."""
    # What others in this process hold is not ours.
    gc.collect()
    foreign = mx.get_active_memory()
    model = load(path)
    mx.reset_peak_memory()
    scheduler = new_scheduler(model)
    short = prompts(SHORT_ROWS, SHORT_PROMPT, model.info.vocab_size)
    for index, ids in enumerate(short):
        scheduler.submit(greedy(index, ids, 10 * sizes.steps))
    while len(scheduler.step().tokens) < SHORT_ROWS:
        pass
    _step_times(scheduler, sizes.settle)
    length = min(sizes.long_prompt, model.info.context_length - 3 * sizes.long_row_steps)
    scheduler.submit(
        greedy(SHORT_ROWS, prompts(1, length, model.info.vocab_size)[0], 10 * sizes.steps)
    )
    prefill = []
    while True:
        begin = time.perf_counter()
        frame = scheduler.step()
        prefill.append(time.perf_counter() - begin)
        if any(token.id == SHORT_ROWS for token in frame.tokens):
            break
    beside = _step_times(scheduler, sizes.long_row_steps)
    # Rows have grown while the long prompt was computed, so they are compared with themselves
    # right after it has gone.
    scheduler.cancel(SHORT_ROWS)
    quiet = _step_times(scheduler, sizes.long_row_steps)
    grown = SHORT_PROMPT + 2 * sizes.settle + sizes.long_row_steps + len(prefill)
    groups = [[grown] * SHORT_ROWS, [length + sizes.long_row_steps]]
    return {
        # Means: beside a long row steps are of two kinds, and tokens take both.
        "quiet_step": statistics.fmean(quiet),
        "prefill_step": statistics.median(prefill),
        "beside_step": statistics.fmean(beside),
        "peak_bytes": mx.get_peak_memory() - foreign,
        "projected_bytes": model.memory.total(groups, model.numbers.prefill_chunk),
        "weights_bytes": model.memory.weights,
    }


def _step_times(scheduler: Scheduler, count: int) -> list[float]:
    """Seconds that each of `count` steps takes."""
    times = [time.perf_counter()]
    for _ in range(count):
        scheduler.step()
        times.append(time.perf_counter())
    return [after - before for before, after in itertools.pairwise(times)]


WHAT: dict[str, Callable[..., dict[str, Any]]] = {
    "bare": bare,
    "core": core,
    "engine": engine,
    "long-row": long_row,
    "prefill": prefill,
    "sampled-step": sampled_step,
    "adapters": adapters,
    "speculation": speculation,
    "models": several,
    "host-work": host_work,
    "prefix": prefix,
    "images": images,
    "balancer": balancer,
    "ranks": lambda path: ranks(path, _users_rate),
    "background": background,
    "vectors": vectors,
    "vectors-mixed": mixed_vectors,
    "vectors-memory": vectors_memory,
    "vectors-chat": vectors_beside_chat,
}

if __name__ == "__main__":
    print(json.dumps(WHAT[sys.argv[1]](Path(sys.argv[2]))))
