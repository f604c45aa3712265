"""Time to the first token of a prompt whose beginning was computed before."""

from __future__ import annotations

import os
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import trim_prompt_cache

from bench.model import cache_root
from bench.rows import greedy, load, new_scheduler
from budmlx.core.model.model import Model
from budmlx.core.reuse.blocks import open_reuse
from budmlx.core.schedule.scheduler import Scheduler
from budmlx.protocol import KVStoreSettings, Token

# Tokens; more than one, since a row is stored in the step that ends it.
REPLY = 4
# What `prefix_cache` is by default, of the memory that the weights leave.
SHARE = 0.5
STORE_BYTES = 2**35
CLOSE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured.

    shared, own: tokens of a prompt. slow, quick: how often what is slow is measured, and what
    is quick, after a first time that is not.
    """

    shared: int = 4000
    own: int = 50
    slow: int = 3
    quick: int = 9


DEFAULTS = Sizes()

Fresh = Callable[[int], list[int]]
Waits = list[tuple[float, Token]]


def prefix(path: Path, sizes: Sizes = DEFAULTS) -> dict[str, Any]:
    """Medians in seconds until the first token of a prompt of `shared` + `own` tokens.

    cold: nothing is stored. hit: another prompt began with the same `shared` tokens. in_place:
    the model alone computes `own` tokens on a cache with the others. disk: after a restart.
    hit_tokens, disk_tokens: of the prompts, that were found, and read from disk.
    """
    model = load(path)
    if model.info.needs_checkpoints:
        return {"problem": "not measured: this model's caches cannot be cut"}
    chance = random.Random(0)

    def fresh(count: int) -> list[int]:
        return [chance.randrange(model.info.vocab_size) for _ in range(count)]

    shared = fresh(min(sizes.shared, model.info.context_length - sizes.own - REPLY))
    cold = [
        _first_token(_with_tree(model), [*shared, *fresh(sizes.own)]) for _ in range(1 + sizes.slow)
    ][1:]
    warm = _with_tree(model)
    # The first one stores what is shared.
    hits = [_first_token(warm, [*shared, *fresh(sizes.own)]) for _ in range(2 + sizes.quick)][2:]
    disk = _from_disk(model, shared, fresh, sizes)
    return {
        "cold": _median(cold),
        "hit": _median(hits),
        "in_place": statistics.median(_in_place(model, shared, fresh, sizes)),
        "disk": _median(disk),
        "hit_tokens": min(token.cached for _, token in hits),
        "disk_tokens": min(token.from_disk for _, token in disk),
    }


def _with_tree(model: Model) -> Scheduler:
    return new_scheduler(model, open_reuse(model, SHARE))


def _first_token(scheduler: Scheduler, ids: list[int]) -> tuple[float, Token]:
    """Seconds from submitting a prompt to its first token, and that; then lets the row end."""
    begin = time.perf_counter()
    scheduler.submit(greedy(0, ids, REPLY))
    while not (frame := scheduler.step()).tokens:
        if frame.failed:
            raise RuntimeError(frame.failed[0].message)
    seconds = time.perf_counter() - begin
    while scheduler.busy:
        scheduler.step()
    return seconds, frame.tokens[0]


def _in_place(model: Model, shared: list[int], fresh: Fresh, sizes: Sizes) -> list[float]:
    cache = model.new_cache()
    chunk = model.numbers.prefill_chunk
    for begin in range(0, len(shared), chunk):
        model(mx.array([shared[begin : begin + chunk]]), cache)
        mx.eval([entry.state for entry in cache])
    times = []
    for _ in range(1 + sizes.quick):
        own = mx.array([fresh(sizes.own)])
        start = time.perf_counter()
        mx.eval(mx.argmax(model(own, cache)[:, -1, :], axis=-1))
        times.append(time.perf_counter() - start)
        trim_prompt_cache(cache, sizes.own)
    return times[1:]


def _from_disk(model: Model, shared: list[int], fresh: Fresh, sizes: Sizes) -> Waits:
    """Measurements of schedulers that begin with the files of earlier ones."""
    root = cache_root()
    root.mkdir(parents=True, exist_ok=True)
    waits = []
    # Beside the model: a directory for temporary files may be in memory.
    with TemporaryDirectory(dir=root) as directory:
        store = KVStoreSettings(directory=directory, limit=STORE_BYTES)
        for _ in range(1 + sizes.slow):
            reuse = open_reuse(model, SHARE, store)
            waits.append(_first_token(new_scheduler(model, reuse), [*shared, *fresh(sizes.own)]))
            reuse.close(CLOSE_SECONDS)
            _drop_pages(Path(directory))
    return waits[1:]


def _drop_pages(directory: Path) -> None:
    """Drop files from the page cache, where the system supports that."""
    if not hasattr(os, "posix_fadvise"):
        return
    for file in directory.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _median(waits: Waits) -> float:
    return statistics.median(seconds for seconds, _ in waits)
