"""Vectors: texts in one request against batched prefills of the bare model, in time and memory,
and beside a chat.

Pairs of ours and the bare model's take turns, since the speed of a machine changes.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model as load_with_mlx_lm

from budmlx import Engine, Finished
from budmlx.benchmark.load import percentile
from budmlx.types import Request, SamplingParams

Ids = Sequence[Sequence[int]]
GROUPS = (1, 4, 8, 16, 32, 64)
"""Texts of a forward pass, of which the fastest is compared with."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured. pairs: of ours and the bare model's.

    many: texts of `length` tokens. mixed: texts of `shortest` to `longest` tokens. rows: of
    `row_length` tokens whose memory is measured. chat: tokens of a reply.
    """

    pairs: int = 3
    many: int = 512
    length: int = 64
    mixed: int = 64
    shortest: int = 8
    longest: int = 256
    rows: int = 16
    row_length: int = 512
    chat: int = 160


DEFAULTS = Sizes()


def vectors(path: Path, sizes: Sizes = DEFAULTS) -> dict[str, float]:
    """Equally long texts. share: of the tokens a second of the bare body, batched at its best."""
    bare = _Bare(path)
    with _engine(path) as engine:
        texts = _texts(sizes.many, [sizes.length], bare.vocab)
        return {"share": 1 / _cost(engine, bare, texts, sizes.pairs)}


def mixed_vectors(path: Path, sizes: Sizes = DEFAULTS) -> dict[str, float]:
    """Texts of many lengths. cost: the time, of that of the bare body with the best grouping."""
    bare = _Bare(path)
    with _engine(path) as engine:
        lengths = range(sizes.shortest, sizes.longest + 1)
        return {"cost": _cost(engine, bare, _texts(sizes.mixed, lengths, bare.vocab), sizes.pairs)}


def _cost(engine: Engine, bare: _Bare, texts: Callable[[], Ids], pairs: int) -> float:
    """The time of ours by that of the bare body, after a first round for buffers and groups."""
    first = texts()[: GROUPS[-1]]
    engine.embed(first)
    bare.seconds(first, GROUPS[-1])
    group = min(GROUPS, key=lambda size: bare.seconds(first, size))
    ratios = []
    for pair in range(pairs):
        runs: dict[str, Callable[[Ids], float]] = {
            "ours": lambda ids: _seconds(lambda: engine.embed(ids)),
            "bare": lambda ids: bare.seconds(ids, group),
        }
        took = {name: run(texts()) for name, run in sorted(runs.items(), reverse=pair % 2 == 1)}
        ratios.append(took["ours"] / took["bare"])
    return statistics.median(ratios)


def vectors_memory(path: Path, sizes: Sizes = DEFAULTS) -> dict[str, float]:
    """Peak bytes beyond the weights: of texts, and of one prefill of as many tokens."""
    prefill, vocab = _prefill_peak(path, sizes)
    texts = _texts(sizes.rows, [sizes.row_length], vocab)
    with _engine(path) as engine:
        engine.embed(texts())
        return {"peak": _peak(lambda: engine.embed(texts())), "prefill_peak": prefill}


def _prefill_peak(path: Path, sizes: Sizes) -> tuple[float, int]:
    bare = _Bare(path)
    texts = _texts(sizes.rows, [sizes.row_length], bare.vocab)
    bare.prefill(texts())
    return _peak(lambda: bare.prefill(texts())), bare.vocab


def _peak(work: Callable[[], object]) -> float:
    gc.collect()
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    work()
    return mx.get_peak_memory() - before


def vectors_beside_chat(path: Path, sizes: Sizes = DEFAULTS) -> dict[str, float]:
    """A chat and texts of vectors, alone and together.

    quiet_p95, beside_p95: seconds between two tokens of the chat. alone, beside: vectors a second.
    """
    with _engine(path) as engine:
        texts = _texts(8, [sizes.longest], engine.info.vocab_size)
        engine.embed(texts())
        rounds = []
        for _ in range(sizes.pairs):
            quiet = _gaps(engine, sizes.chat)
            alone = 2 * 8 / (_seconds(lambda: [engine.embed(texts()) for _ in range(2)]))
            stop, done = threading.Event(), [0]
            worker = threading.Thread(target=_keep_embedding, args=(engine, texts, stop, done))
            worker.start()
            begin = time.perf_counter()
            beside = _gaps(engine, sizes.chat)
            seconds, count = time.perf_counter() - begin, done[0]
            stop.set()
            worker.join()
            found = {"quiet_p95": percentile(quiet, 95), "beside_p95": percentile(beside, 95)}
            rounds.append({**found, "alone": alone, "beside": count / seconds})
    gap = statistics.median(each["beside_p95"] / each["quiet_p95"] for each in rounds)
    speed = statistics.median(each["beside"] / each["alone"] for each in rounds)
    middle = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    return {**middle, "gap": gap, "speed": speed}


def _keep_embedding(
    engine: Engine, texts: Callable[[], Ids], stop: threading.Event, done: list[int]
) -> None:
    while not stop.is_set():
        before = done[0]

        def tell(count: int, _: int, before: int = before) -> None:
            done[0] = before + count

        engine.embed(texts(), progress=tell)


def _gaps(engine: Engine, tokens: int) -> list[float]:
    """Seconds between two tokens of a reply."""

    async def chat() -> list[float]:
        sampling = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True)
        times = []
        async for event in engine.aevents(Request(prompt=(1, 2, 3, 4), sampling=sampling)):
            if not isinstance(event, Finished):
                times.append(time.perf_counter())
        return [later - earlier for earlier, later in itertools.pairwise(times)][4:]

    return asyncio.run(chat())


class _Bare:
    """A model's body without head and cache, as mlx-lm has it."""

    def __init__(self, path: Path):
        self._model, config = load_with_mlx_lm(path)
        self.vocab = int(config["vocab_size"])

    def seconds(self, texts: Ids, group: int) -> float:
        """For the last states of texts, so many of the most similar lengths in a pass."""

        def work() -> None:
            ordered = sorted(texts, key=len)
            for begin in range(0, len(ordered), group):
                own = ordered[begin : begin + group]
                longest = len(own[-1])
                rows = [[*ids, *[0] * (longest - len(ids))] for ids in own]
                states = self._model.model(mx.array(rows))
                last = mx.array([len(ids) - 1 for ids in own])
                mx.eval(mx.take_along_axis(states, last[:, None, None], axis=1).astype(mx.float32))

        return _seconds(work)

    def prefill(self, texts: Ids) -> None:
        """Compute the KV of texts of one length in one pass."""
        cache = make_prompt_cache(self._model)
        self._model.model(mx.array(texts), cache=cache)
        mx.eval([entry.state for entry in cache])


def _engine(path: Path) -> Engine:
    return Engine.load(path, engine_host="thread", prefix_cache="0", embed_any=True)


def _texts(count: int, lengths: Sequence[int], vocab: int) -> Callable[[], Ids]:
    """Makes random texts, other ones each time."""
    chance = random.Random(0)

    def make() -> Ids:
        sizes = random.Random(1).choices(lengths, k=count)
        return [[chance.randrange(vocab) for _ in range(size)] for size in sizes]

    return make


def _seconds(work: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
