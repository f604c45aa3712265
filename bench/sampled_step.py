"""A step of 16 rows that are sampled with top_p against one of greedy rows."""

from __future__ import annotations

import itertools
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from bench.rows import greedy, load, new_scheduler, prompts
from bench.write_model import PEAKED
from budmlx.core.schedule.scheduler import Scheduler
from budmlx.types import SamplingParams

ROWS, PROMPT = 16, 48
SAMPLED = SamplingParams(temperature=0.8, top_p=0.9)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured. steps: of each kind in each round. settle: before them."""

    steps: int = 24
    settle: int = 6
    rounds: int = 7


DEFAULTS = Sizes()


def sampled_step(path: Path, sizes: Sizes = DEFAULTS) -> dict[str, Any]:
    """Medians of seconds a step, in alternating rounds, with peaked and with flat logits.

    The model is the bench's peaked one; without the factor on its last norm it is flat.
    """
    model = load(path)
    norm = model.module.model.norm
    vocab = model.info.vocab_size
    factor = PEAKED["cpu" if vocab < 100_000 else "gpu"]
    scheduler = new_scheduler(model)
    numbers = itertools.count()
    found: dict[str, Any] = {"vocab": vocab}
    for logits in ("peaked", "flat"):
        if logits == "flat":
            norm.weight = norm.weight / factor
        seconds: dict[str, list[float]] = {"greedy": [], "sampled": []}
        for turn in range(2 * (1 + sizes.rounds)):
            # The same order twice would favour one of them.
            kind = ("greedy", "sampled")[(turn + turn // 2) % 2]
            seconds[kind].append(_step(scheduler, numbers, vocab, kind == "sampled", sizes))
        for kind, all_ in seconds.items():
            found[f"{logits}_{kind}"] = statistics.median(all_[1:])
    return found


def _step(
    scheduler: Scheduler, numbers: itertools.count[int], vocab: int, sampled: bool, sizes: Sizes
) -> float:
    """Seconds a step of rows that are new to the scheduler."""
    rows = []
    for ids in prompts(ROWS, PROMPT, vocab):
        row = greedy(next(numbers), ids, 10_000)
        rows.append(msgspec.structs.replace(row, sampling=SAMPLED) if sampled else row)
    for row in rows:
        scheduler.submit(row)
    while len(scheduler.step().tokens) < ROWS:
        pass
    for _ in range(sizes.settle):
        scheduler.step()
    begin = time.perf_counter()
    for _ in range(sizes.steps):
        scheduler.step()
    seconds = (time.perf_counter() - begin) / sizes.steps
    for row in rows:
        scheduler.cancel(row.id)
    return seconds
