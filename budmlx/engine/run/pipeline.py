"""Request pipeline: prepared, then answered from the cache or computed, event by event.

Computing means rows on a host, whose tokens come back in frames.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Self

from budmlx.config import ModelConfig, adapter_paths
from budmlx.engine.hosts.host import open_host
from budmlx.engine.procedures import Mailbox, PluginCalls, Procedure, Stream, off_loop
from budmlx.engine.prompt import TokenizedPrompt
from budmlx.engine.reply.generation import Generation, Update
from budmlx.engine.request.prepare import Preparation
from budmlx.engine.reuse.response_cache import ReplyCache, Ticket
from budmlx.engine.reuse.stored_reply import StoredReply, replay
from budmlx.engine.reuse.tracker import ReuseTracker
from budmlx.engine.run.adapters import AdapterSet
from budmlx.engine.run.job import Job
from budmlx.engine.run.origin import RequestOrigin, Reservation, calling, reserved
from budmlx.engine.run.prompt_log import PromptLog
from budmlx.engine.run.rows import RowBuilder, completion_bounds
from budmlx.errors import BudmlxError, CancelledError, InvalidRequestError, QuotaError
from budmlx.plugins.manager import Plugins
from budmlx.plugins.specs import RequestEnd, RequestRecord
from budmlx.progress import Notice
from budmlx.protocol import (
    CoreRequest,
    CoreSettings,
    RowFailed,
    SessionFile,
    StepFrame,
    Token,
    Vector,
)
from budmlx.types import Event, Finished, Request

NUMBERS = ("temperature", "top_p", "max_tokens")
STOPPED = (GeneratorExit, KeyboardInterrupt, CancelledError)


class RequestPipeline:
    """Runs the requests of one engine, each as a stream of its events. Thread-safe.

    prompt_log: gets every prompt that is computed, with its reply; None for none.
    The driver of a stream decides how to wait. A stream that is closed cancels its request.
    """

    def __init__(
        self,
        preparation: Preparation,
        cache: ReplyCache,
        rows: RowBuilder,
        dispatcher: RowDispatcher,
        tracker: ReuseTracker,
        plugins: Plugins,
    ):
        self.preparation = preparation
        self.cache = cache
        self.dispatcher = dispatcher
        self.tracker = tracker
        self.rows = rows
        self.pace = Pace()
        self.prompt_log: PromptLog | None = None
        self._plugins = plugins

    def run(
        self, request: Request, origin: RequestOrigin | None = None, *, together: bool = False
    ) -> Stream[Event]:
        """The events of a request. origin: for its record.

        together: one thread drives many requests. They share no replies then, since none may
        wait for another, and plugins are called on that thread.
        """
        model = self.dispatcher.info.name
        origin = origin or calling()
        with RequestOutcome(self._plugins, model, origin) as outcome:
            request, prompt = yield from self.prepared(request)
            request = yield from self._paid(request, len(prompt.ids), outcome)
            outcome.prepared(request)
            reply = None
            if self.cache.enabled:
                ticket = self.cache.ticket(request, prompt.ids, share=not together)
                outcome.accepted(ticket)
                reply = yield from ticket.lookup()
                outcome.looked_up = ticket.reads
            if reply is not None:
                yield from outcome.replayed(reply)
            else:
                yield from self.computed(
                    request, prompt, origin, outcome=outcome, together=together
                )

    def prepared(self, request: Request) -> Procedure[tuple[Request, TokenizedPrompt]]:
        """The request as it runs, and its prompt. Raises the errors of `Engine.events`."""
        if not self.dispatcher.info.generates:
            raise InvalidRequestError(
                f"The model {self.dispatcher.info.name} is an embedding model, which does not "
                "chat. Send it to /v1/embeddings, or choose another model.",
                param="model",
                code="unsupported_model",
            )
        if request.adapter:
            request = self.dispatcher.adapters.resolved(request)
        return (yield from self.preparation.run(request))

    def _paid(self, request: Request, tokens: int, outcome: RequestOutcome) -> Procedure[Request]:
        """The request, once there are tokens for it. tokens: of its prompt. Raises QuotaError."""
        most, least = completion_bounds(request, self.dispatcher.info.context_length - tokens)
        held = yield from outcome.reserve(tokens, request.n * most, request.n * least)
        paid = held // request.n
        if paid >= most:
            return request
        return replace(request, sampling=replace(request.sampling, max_tokens=paid))

    def computed(
        self,
        request: Request,
        prompt: TokenizedPrompt,
        origin: RequestOrigin | None = None,
        *,
        session: SessionFile | None = None,
        outcome: RequestOutcome | None = None,
        together: bool = False,
    ) -> Stream[Event]:
        """The events of a prepared request that the core computes. session: to save or load.

        origin: learns how far the prompt is. outcome: gets each event before the caller does.
        together: see `run`.
        """
        mailbox: Mailbox[Sequence[Update]] = Mailbox()
        foreign = [] if together else self.rows.foreign_plugins(request)
        with PluginCalls(self._plugins.hanging, foreign) as calls:
            ids = self.dispatcher.new_ids(request.n)
            build = partial(self.rows.build, request, prompt, ids, session)
            if foreign or not self.rows.is_slow(request):
                built = yield from calls.run(build)
            else:
                built = yield from off_loop(build)
            generation = Generation(built.submission, built.texts, mailbox)
            if origin is not None:
                origin.generation = generation
            if outcome is not None:
                outcome.generation = generation
            self.dispatcher.submit(generation, built.rows)
            try:
                while not generation.over:
                    updates = yield from mailbox.receive()
                    events = yield from calls.items(self._events(generation, updates))
                    for event in events:
                        if outcome is not None:
                            outcome.note(event)
                        yield event
            finally:
                self._release(generation)

    def _events(self, generation: Generation, updates: Sequence[Update]) -> Iterator[Event]:
        for event in generation.events(updates):
            if isinstance(event, Finished):
                self.pace.note(event)
                explained = self.tracker.explained(
                    generation.submission, event.usage.cached_tokens, generation.from_disk
                )
                generation.reason = explained.reason
                if generation.submission.explain:
                    event = replace(event, cache_explanation=explained)
            yield event
        self.dispatcher.drop_ended(generation)

    def _release(self, generation: Generation) -> None:
        """Idempotent."""
        if self.dispatcher.release(generation):
            self.tracker.add(generation.submission, generation.written)
            if self.prompt_log is not None:
                self.prompt_log.write(generation)


class Pace:
    """How fast requests of late went, to tell others what to expect. Times are in seconds.

    The means forget: the last request counts for a tenth.
    """

    def __init__(self) -> None:
        self._per_token: float | None = None
        self._stay: float | None = None

    def note(self, end: Finished) -> None:
        """A request ended."""
        computed = end.usage.prompt_tokens - end.usage.cached_tokens
        if computed > 0:
            self._per_token = _mean(self._per_token, end.timing.prompt / computed)
        self._stay = _mean(self._stay, end.timing.prompt + end.timing.completion)

    def wait(self, tokens: int, running: int, waiting: int) -> float | None:
        """Time to the first token of a prompt with so many to compute; None if nothing is known.

        Requests that wait begin as running ones end.
        """
        if self._per_token is None or self._stay is None:
            return None
        queue = self._stay * waiting / max(running, 1)
        return queue + self._per_token * tokens


def _mean(mean: float | None, value: float) -> float:
    return value if mean is None else 0.9 * mean + 0.1 * value


class RequestOutcome:
    """A context manager around the events of a request; reports its end to those who watch.

    generation: once the core computes it. looked_up: the response cache was asked.
    """

    def __init__(self, plugins: Plugins, model: str, origin: RequestOrigin):
        origin.recorded = True
        self.generation: Generation | None = None
        self.looked_up = False
        self._plugins = plugins
        self._model = model
        self._origin = origin
        self._taken = time.time()
        self._prepared, self._parameters = self._taken, dict[str, float]()
        self._ticket: Ticket | None = None
        self._finished: Finished | None = None
        self._held: Reservation | None = None

    def reserve(self, prompt: int, completion: int = 0, least: int = 0) -> Procedure[int]:
        """Have tokens held; returns those that may be generated. See `Account.reserve`."""
        if (account := self._origin.account) is None:
            return completion
        self._held = yield from reserved(account, prompt, completion, least)
        return self._held.completion

    def prepared(self, request: Request) -> None:
        """Note that the prompt is there."""
        self._prepared = time.time()
        numbers = ((name, getattr(request.sampling, name)) for name in NUMBERS)
        known = {name: number for name, number in numbers if number is not None}
        self._parameters = {"n": request.n, **known}

    def accepted(self, ticket: Ticket) -> None:
        """Note that the request can be answered. ticket: closed at its end."""
        self._ticket = ticket

    def replayed(self, reply: StoredReply) -> Iterator[Event]:
        """The events of a stored reply."""
        self._origin.stored = reply.usage
        for event in replay(reply):
            if isinstance(event, Finished):
                self._finished = event
            yield event

    def note(self, event: Event) -> None:
        """Take an event that is computed for the request."""
        if self._ticket is not None:
            self._ticket.note(event)
        if isinstance(event, Finished):
            self._finished = event

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._ticket is not None:
            self._ticket.close()
        sink, held = self._origin.sink, self._held
        if self._plugins.observed or sink is not None or held is not None:
            record = self._record(error)
            if held is not None:
                held.settle(None if record.cached else record.usage)
            if self._plugins.observed:
                self._plugins.request_finished(record)
            if sink is not None:
                sink(record)

    def _record(self, error: BaseException | None) -> RequestRecord:
        done, generation = self._finished, self.generation
        if done is not None:
            return self._of(
                "completed",
                reasons=done.reasons,
                cached=done.cached,
                usage=done.usage,
                timing=done.timing,
                disk_tokens=generation.from_disk if generation else 0,
                cache_reason=generation.reason if generation else None,
            )
        so_far: dict[str, Any] = {}
        if generation is not None and generation.begun:
            so_far = {"usage": generation.usage, "timing": generation.timing}
        if error is None or isinstance(error, STOPPED):
            return self._of("cancelled", **so_far)
        code = error.code if isinstance(error, BudmlxError) else "internal_error"
        if isinstance(error, InvalidRequestError | QuotaError):
            self._origin.response_id = ""  # There is no reply.
            return self._of("refused", error=code or "invalid_request", **so_far)
        return self._of("failed", error=code, **so_far)

    def _of(self, outcome: RequestEnd, **values: Any) -> RequestRecord:
        origin = self._origin
        return RequestRecord(
            model=self._model,
            outcome=outcome,
            request_id=origin.request_id,
            response_id=origin.response_id,
            key=origin.key,
            route=origin.route,
            started=origin.started,
            finished=time.time(),
            waited=self._taken - origin.started,
            prepared=self._prepared - self._taken,
            looked_up=self.looked_up,
            parameters=self._parameters,
            **values,
        )


class RowDispatcher:
    """Submits rows to a host and delivers its frames to their jobs. Thread-safe."""

    def __init__(self, settings: CoreSettings, config: ModelConfig, notice: Notice | None = None):
        """Open the host that the configuration names; see `open_host`. Raises ModelLoadError."""
        self._jobs: dict[int, Job] = {}
        self._ids = itertools.count(1)
        self.host = open_host(settings, self._receive, config, notice)
        self.info = self.host.info
        self.adapters = AdapterSet(self.host, adapter_paths(config.adapter))
        if config.context_limit is not None:
            length = min(self.info.context_length, config.context_limit)
            self.info = replace(self.info, context_length=length)

    def new_ids(self, count: int) -> list[int]:
        """Ids for this many rows."""
        return [next(self._ids) for _ in range(count)]

    def submit(self, job: Job, requests: Sequence[CoreRequest]) -> None:
        """Queue all that a job consists of. What the core says of it is delivered to the job.

        Raises:
            EngineUnavailableError, EngineClosedError: the host takes nothing.
            ModelNotFoundError: the adapter was removed meanwhile.
        """
        if job.adapter:
            self.adapters.take(job.adapter)
        self._jobs.update(dict.fromkeys(job.row_ids, job))
        try:
            for request in requests:
                self.host.submit(request)
        except BudmlxError:
            self.release(job)
            raise

    def drop_ended(self, generation: Generation) -> None:
        """Cancel the rows whose text ended before the core knew."""
        for row_id in generation.ended():
            self._drop(generation, row_id)

    def release(self, job: Job) -> bool:
        """Forget a job, and drop what is left of it; returns whether it was known."""
        for row_id in sorted(job.running):
            self._drop(job, row_id)
        known = [self._jobs.pop(row_id, None) for row_id in job.row_ids]
        if any(known) and job.adapter:
            self.adapters.give_back(job.adapter)
        return any(known)

    def _drop(self, job: Job, row_id: int) -> None:
        job.running.discard(row_id)
        self.host.cancel(row_id)

    def _receive(self, frame: StepFrame) -> None:
        """Hand a frame to its jobs. Runs on the host's thread."""
        now = time.monotonic()
        for row_id in frame.started:
            if job := self._jobs.get(row_id):
                job.stamp_start(now)
        for row_id, left in frame.prefilling:
            if isinstance(job := self._jobs.get(row_id), Generation):
                job.left = left
        updates: list[Token | RowFailed | Vector] = [*frame.tokens, *frame.failed, *frame.vectors]
        for update in updates:
            if job := self._jobs.get(update.id):
                job.deliver((update,), now)
