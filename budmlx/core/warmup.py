"""Warm-up: runs what the first requests will run, so that the kernels for it get built before.

Its requests take the way of all others, through a scheduler and an executor of its own, which
are dropped afterwards with all that they stored and measured.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import mlx.core as mx
import msgspec

from budmlx.core.activity import Activity
from budmlx.core.batch.executor import Executor
from budmlx.core.model.model import Model
from budmlx.core.reuse.blocks import open_reuse
from budmlx.core.reuse.interface import Reusing
from budmlx.core.schedule.scheduler import Scheduler
from budmlx.core.schedule.speculation import COUNTS
from budmlx.protocol import (
    MOST_PLACES,
    CoreRequest,
    CoreSettings,
    EmbedRequest,
    FromCore,
    GenerateRequest,
    Grammar,
    Image,
    WarmingUp,
)
from budmlx.types import SamplingParams

log = logging.getLogger(__name__)

# Seconds after which the rest is left to the requests that need it.
WARMUP_SECONDS = 300.0
# Rows of the largest batch: more of them use the same kernels.
MOST_ROWS = 16
# Steps that a batch takes before others join it.
STEPS_ALONE = 2

IMAGE = Image(plugin="", start=4, tokens=16, key="0" * 64, arrays={})
GRAMMAR = Grammar(source="start: /(.|\\n)+/", param="warmup")
GREEDY: Mapping[str, Any] = {"temperature": 0.0}
LOGPROBS: Mapping[str, Any] = {"logprobs": 5}
ADJUSTED: Mapping[str, Any] = {
    "frequency_penalty": 0.1,
    "presence_penalty": 0.1,
    "repetition_penalty": 1.1,
    "logit_bias": ((1, 1.0),),
}
FILTERS: Sequence[Mapping[str, Any]] = (
    {},
    {"top_p": 0.9},
    {"top_k": 40},
    {"top_k": 40, "top_p": 0.9},
    {"top_k": 400},
    {"min_p": 0.05},
    {"typical_p": 0.9},
)


@dataclass(frozen=True, slots=True)
class Part:
    """Requests that begin together, and those that join them later.

    drafts: tokens that those draft in a step which can.
    """

    rows: Sequence[CoreRequest]
    late: Sequence[CoreRequest] = field(default_factory=list)
    drafts: int = 0


class WarmUp:
    """The warm-up of a model.

    activity: that of the core, which knows afterwards what has run. new_executor: makes what runs
    the parts. thorough: run all parts, also where the device has no kernels to build; None decides
    by the device.
    """

    def __init__(
        self,
        model: Model,
        settings: CoreSettings,
        activity: Activity,
        *,
        new_executor: Callable[..., Executor] = Executor,
        thorough: bool | None = None,
    ):
        self._model = model
        self._new_executor = new_executor
        self._settings = settings
        self._activity = activity
        chunk = model.numbers.prefill_chunk
        room = model.memory.longest_row(model.info.context_length, chunk) // 2
        requests = Requests(model, min(settings.max_rows, MOST_ROWS), chunk, room)
        # A CPU has no kernels to build but those that the model's own code compiles, which are
        # the same for all requests.
        builds = mx.default_device() != mx.cpu if thorough is None else thorough
        self._parts = list[Part]()
        if model.info.generates:
            self._parts += requests.many() if builds else requests.few()
        if model.embedder is not None:
            self._parts += requests.texts(many=builds)

    def run(self, emit: Callable[[FromCore], None], seconds: float = WARMUP_SECONDS) -> None:
        """Run all parts, each of which is announced; after `seconds` the rest is left out.

        Raises:
            DeviceLostError: the device refuses all further work.
        """
        reuse = open_reuse(self._model, self._settings.prefix_cache)
        self._run_all(reuse, emit, seconds)
        # What is stored there knows each other, so that dropping it frees nothing at once.
        reuse.resize(0)
        mx.clear_cache()

    def _run_all(self, reuse: Reusing, emit: Callable[[FromCore], None], seconds: float) -> None:
        begin, total = time.monotonic(), len(self._parts)
        schedulers = {
            drafts: Scheduler(
                self._new_executor(self._model, reuse, self._activity),
                max_rows=self._settings.max_rows,
                prefill_chunk=self._model.numbers.prefill_chunk,
                speculation=drafts,
            )
            for drafts in {part.drafts for part in self._parts}
        }
        for done, part in enumerate(self._parts):
            elapsed = time.monotonic() - begin
            emit(WarmingUp(done, total, elapsed / done * (total - done) if done else None))
            with self._standing_in():
                finished = _run(schedulers[part.drafts], part, begin + seconds)
            if not finished:
                log.warning(
                    "The warm-up is ended after %.0f s, with %d of %d parts done: the requests "
                    "that need the others will wait for their kernels.",
                    *(time.monotonic() - begin, done, total),
                )
                return

    @contextlib.contextmanager
    def _standing_in(self) -> Iterator[None]:
        """Context in which `IMAGE` needs no encoder."""
        if self._model.vision is None:
            yield
        else:
            with self._model.vision.standing_in(self._model.module, IMAGE):
                yield


def _run(scheduler: Scheduler, part: Part, end: float) -> bool:
    """Run a part; returns whether it is done before `end`, a time of `time.monotonic`."""
    for row in part.rows:
        scheduler.submit(row)
    late = list(part.late)
    for step in count(1):
        if time.monotonic() >= end:
            return False
        for failed in scheduler.step().failed:
            log.warning("A part of the warm-up failed: %s", failed.message)
        while late and step >= STEPS_ALONE:
            scheduler.submit(late.pop())
        if not scheduler.busy and not late:
            break
    return True


class Requests:
    """Makes the requests of a warm-up.

    rows: of the largest batch. longest: tokens of a pass. room: most tokens of a prompt.
    """

    def __init__(self, model: Model, rows: int, longest: int, room: int):
        self._model = model
        self._rows = rows
        self._longest = longest
        self._room = room
        self._ids = count(1)

    def few(self) -> list[Part]:
        """A prompt alone, and two together, which are padded."""
        alone, *together = (self._row(tokens, max_tokens=1) for tokens in (3, 3, 4))
        return [Part([alone]), Part(together)]

    def many(self) -> list[Part]:
        """What requests may run, the most frequent first: prompts of several lengths, alone and
        together, batches that others join and leave, and all that sampling can do.
        """
        first = self._row(40)
        again = self._row(40, prompt_ids=first.prompt_ids)
        together = [self._row(20 + 3 * n, max_tokens=2 + n % 3) for n in range(5)]
        parts = [
            Part([first], [again]),
            Part(together, [self._row(24)]),
            Part([self._row(12 + n) for n in range(self._rows)]),
            Part([self._row(30, {"temperature": 1.0, **filters}) for filters in FILTERS]),
            Part([self._row(self._longest + 1)]),
            Part([self._row(50 + 5 * n) for n in range(4)]),
            Part([self._row(30, ADJUSTED, min_tokens=2, stop_ids=[0]), self._row(30, LOGPROBS)]),
            Part([self._row(30, grammar=GRAMMAR), self._row(30)]),
        ]
        if self._model.vision is not None:
            parts.append(Part([self._row(40, images=[IMAGE])]))
        if adapters := list(self._model.adapters.names):
            own = [self._row(30 + n, adapter=name) for n, name in enumerate(adapters[:MOST_ROWS])]
            parts += [Part(own[:1]), Part([*own, self._row(30)])]
        return [*parts, *self._drafting()]

    def _drafting(self) -> list[Part]:
        """A row alone and rows together that draft, with each number of tokens that they may."""
        setting = self._model.info.speculation
        if setting in ("off", "unsupported"):
            return []
        return [
            Part([self._predicted(20 + n, drafts) for n in range(rows)], drafts=drafts)
            for drafts in (COUNTS if setting == "auto" else [int(setting)])
            for rows in sorted({1, min(self._rows, MOST_PLACES // (drafts + 1))})
        ]

    def _predicted(self, tokens: int, drafts: int) -> GenerateRequest:
        """A row that drafts in its first step."""
        return self._row(tokens, prediction=self._ids_of(1, drafts), max_tokens=drafts + 2)

    def texts(self, *, many: bool) -> list[Part]:
        """Texts to make vectors of, alone and together; with `many`, of several lengths."""
        sizes = [(3,), (3, 4), *([(40,) * 8, (self._longest + 1,), (400,)] if many else [])]
        return [
            Part([EmbedRequest(id=next(self._ids), texts=[self._ids_of(n, n) for n in lengths])])
            for lengths in sizes
        ]

    def _ids_of(self, number: int, tokens: int) -> list[int]:
        """Ids that share no beginning with those of other numbers, as many as fit."""
        length = max(min(tokens, self._room), 2)
        return [(7 * number + place) % self._model.info.vocab_size for place in range(length)]

    def _row(
        self, tokens: int, params: Mapping[str, Any] = GREEDY, **fields: Any
    ) -> GenerateRequest:
        """A short row that shares no beginning with others. tokens: of its prompt, if they fit."""
        number = next(self._ids)
        request = GenerateRequest(
            id=number,
            prompt_ids=self._ids_of(number, tokens),
            sampling=SamplingParams(**{**GREEDY, **params}),
            seed=number,
            max_tokens=4,
            stop_ids=[],
        )
        return msgspec.structs.replace(request, **fields)
