"""Two ranks against one process, each with one thread for BLAS, and what rank 0's messages cost."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.rows import greedy, load, prompts
from budmlx import Engine
from budmlx.core.batch.executor import Executor
from budmlx.core.batch.plan import Plan, Result
from budmlx.core.model.model import Model
from budmlx.core.ranks.messages import ToFollower, Turn, digest
from budmlx.core.schedule.scheduler import Scheduler
from budmlx.protocol.channel import Channel, connected_sockets

ROWS, PROMPT = 16, 48
# Of OpenBLAS and of Apple's Accelerate.
THREADS = ("OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")

Measure = Callable[[Engine, int, int], float]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured. steps: of each Engine, in each of the rounds."""

    steps: int = 96
    rounds: int = 5
    messages: int = 200


DEFAULTS = Sizes()


def ranks(path: Path, measure: Measure, sizes: Sizes = DEFAULTS) -> dict[str, float]:
    """Tokens a second of an Engine with one process and with two ranks, with 16 rows and with one:
    medians over rounds, in which they take turns; and the share of a step of 16 that messages to
    the other rank take.

    measure: tokens a second of an Engine with so many rows, for so many steps.
    """
    for name in THREADS:
        os.environ[name] = "1"  # the processes of the Engines read it
    rates: dict[str, list[float]] = {}
    options: dict[str, Any] = {"engine_host": "process", "warmup": "off", "prefix_cache": "0"}
    with ExitStack() as stack:
        engines = {
            "one": stack.enter_context(Engine.load(path, **options)),
            "two": stack.enter_context(Engine.load(path, **options, ranks=2)),
        }
        for number in range(1 + sizes.rounds):
            for name in sorted(engines, reverse=number % 2 == 1):
                for rows in (ROWS, 1):
                    rates.setdefault(f"{name}_{rows}", []).append(
                        measure(engines[name], rows, sizes.steps)
                    )
    found = {name: statistics.median(each[1:]) for name, each in rates.items()}
    for rows in (ROWS, 1):
        pairs = zip(rates[f"two_{rows}"][1:], rates[f"one_{rows}"][1:], strict=True)
        found[f"gain_{rows}"] = statistics.median(two / one for two, one in pairs)
    found["decisions"] = _messages(path, sizes) * found[f"two_{ROWS}"] / ROWS
    return found


class _Recording(Executor):
    """ran: the plans that it ran, with their results."""

    def __init__(self, model: Model):
        super().__init__(model)
        self.ran: list[tuple[Plan, Result]] = []

    def run(self, plan: Plan) -> Result:
        """See `Executor`."""
        result = super().run(plan)
        self.ran.append((plan, result))
        return result


def _messages(path: Path, sizes: Sizes) -> float:
    """Seconds that rank 0 takes in a step of 16 rows to tell another rank of it."""
    model = load(path)
    executor = _Recording(model)
    chunk = executor.numbers.prefill_chunk
    scheduler = Scheduler(executor, max_rows=ROWS, prefill_chunk=chunk)
    for index, ids in enumerate(prompts(ROWS, PROMPT, model.info.vocab_size)):
        scheduler.submit(greedy(index, ids, 1000))
    while len(scheduler.step().tokens) < ROWS:
        pass
    executor.ran.clear()
    scheduler.step()
    ours, theirs = connected_sockets()
    sender: Channel[ToFollower] = Channel(ours, ToFollower)
    receiver: Channel[ToFollower] = Channel(theirs, ToFollower)

    def receive() -> None:
        for _ in range(sizes.messages * len(executor.ran)):
            receiver.receive()

    thread = threading.Thread(target=receive)
    thread.start()
    seconds = []
    for number in range(sizes.messages):
        begin = time.perf_counter()
        for plan, result in executor.ran:
            sender.send(Turn(plan, begin, number, []))
            digest(result)
        seconds.append(time.perf_counter() - begin)
    thread.join()
    sender.close()
    receiver.close()
    return statistics.median(seconds)
