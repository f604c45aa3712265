"""Background work: alone against the same work given interactively, and beside chats."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench.rows import greedy, load, new_scheduler, prompts
from budmlx.benchmark.load import percentile
from budmlx.core.model.model import Model
from budmlx.core.schedule.scheduler import Scheduler


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured. pairs: of the background's runs and interactive ones.

    rows, tokens: of a batch. users: that chat beside it, for so many steps.
    """

    pairs: int = 5
    rows: int = 32
    prompt: int = 48
    tokens: int = 24
    users: int = 4
    steps: int = 150


DEFAULTS = Sizes()


def background(path: Path, sizes: Sizes = DEFAULTS) -> dict[str, float]:
    """A batch on an idle server, and beside users.

    idle: its tokens a second, of those of the same rows in the interactive class. steps_later: of
    a newcomer's first token beside the batch, in steps more than alone. growth: the mean step of
    the users with the batch, by that without; growth_p95: its 95th percentile by that of those.
    progress: tokens of the batch for each token of the users.
    """
    model = load(path)
    _batch(model, sizes, background=True)
    ratios = []
    for pair in range(sizes.pairs):
        order = (True, False) if pair % 2 else (False, True)
        took = {low: _batch(model, sizes, background=low) for low in order}
        ratios.append(took[False] / took[True])
    alone, beside = (
        _steps_to_first(model, sizes, crowd=False),
        _steps_to_first(model, sizes, crowd=True),
    )
    return {
        "idle": statistics.median(ratios),
        "steps_later": float(beside - alone),
        **_beside_users(model, sizes),
    }


def _submit(
    scheduler: Scheduler, model: Model, sizes: Sizes, count: int, first: int, *, low: bool
) -> None:
    ids = prompts(first + count, sizes.prompt, model.info.vocab_size)[first:]
    for number, prompt in enumerate(ids, first):
        most = sizes.tokens if low or count == sizes.rows else 10 * sizes.steps
        row = greedy(number, prompt, most)
        scheduler.submit(msgspec.structs.replace(row, background=low))


def _batch(model: Model, sizes: Sizes, *, background: bool) -> float:
    """Seconds of all rows of a batch."""
    scheduler = new_scheduler(model)
    _submit(scheduler, model, sizes, sizes.rows, 0, low=background)
    begin = time.perf_counter()
    while scheduler.busy:
        scheduler.step()
    return time.perf_counter() - begin


def _steps_to_first(model: Model, sizes: Sizes, *, crowd: bool) -> int:
    """Steps until a newcomer has its first token."""
    scheduler = new_scheduler(model)
    if crowd:
        _submit(scheduler, model, sizes, sizes.rows, 0, low=True)
        for _ in range(8):
            scheduler.step()
    _submit(scheduler, model, sizes, 1, 1000, low=False)
    steps = 0
    while True:
        steps += 1
        if any(token.id == 1000 for token in scheduler.step().tokens):
            return steps


def _beside_users(model: Model, sizes: Sizes) -> dict[str, float]:
    """The steps of users without a batch and with one, in turns on one scheduler."""
    scheduler = new_scheduler(model)
    _submit(scheduler, model, sizes, sizes.users, 1000, low=False)
    while len(scheduler.step().tokens) < sizes.users:
        pass
    quiet, mixed, done, given = [], [], 0, 0
    for turn in range(2 * sizes.pairs):
        times = mixed if turn % 2 else quiet
        ids = range(2000 + turn * sizes.rows, 2000 + (turn + 1) * sizes.rows)
        if turn % 2:
            for number, prompt in zip(
                ids, prompts(sizes.rows, sizes.prompt, model.info.vocab_size), strict=True
            ):
                row = greedy(number, prompt, 10 * sizes.steps)
                scheduler.submit(msgspec.structs.replace(row, background=True))
        for _ in range(sizes.steps // sizes.pairs):
            begin = time.perf_counter()
            tokens = scheduler.step().tokens
            times.append(time.perf_counter() - begin)
            if turn % 2:
                done += sum(token.id >= 2000 for token in tokens)
                given += sum(token.id < 2000 for token in tokens)
        for number in ids:
            scheduler.cancel(number)
    return {
        "growth": statistics.fmean(mixed) / statistics.fmean(quiet),
        "growth_p95": percentile(mixed, 95) / percentile(quiet, 95),
        "progress": done / given,
    }
