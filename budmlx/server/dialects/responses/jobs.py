"""Jobs: responses that are made in the background, and those who follow their streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from budmlx.engine.models.models import ServedModel
from budmlx.engine.run.origin import RequestOrigin
from budmlx.errors import InvalidRequestError
from budmlx.server import answer
from budmlx.server.dialects.responses.kept import TOO_LARGE, KeptResponses, Record
from budmlx.server.dialects.responses.reply import ReplyBuilder, framed
from budmlx.server.dialects.responses.shapes import ResponseEvent
from budmlx.server.errors import Failure, HttpError, failure_of
from budmlx.server.state import CONFIG, LIMITS
from budmlx.types import Finished


class Job:
    """A response that is made without a connection.

    frames: the events of its stream so far. origin: of its request.
    """

    def __init__(
        self,
        builder: ReplyBuilder,
        kept: KeptResponses,
        owner: str,
        record: Record,
        origin: RequestOrigin,
    ):
        self.builder = builder
        self.origin = origin
        self.frames: list[bytes] = []
        self.over = False
        self._kept = kept
        self._owner = owner
        self._record = record
        self._news = asyncio.Event()

    async def begin(self) -> None:
        """Keep the response before it is made. Raises BudmlxError if it cannot be kept."""
        problem = await self._keep()
        if problem == TOO_LARGE:
            raise InvalidRequestError(
                f"The response cannot be made in the background: {problem}.", param="background"
            )
        if problem:
            message = f"No response can be made in the background: {problem}."
            raise HttpError(503, message, code="store_failed")
        self._say(self.builder.begin())

    def start(
        self, app: web.Application, model: ServedModel, run: answer.Run
    ) -> asyncio.Task[None]:
        """Start to make the response; the task, which is not to be cancelled, ends when it is."""
        self._making = asyncio.create_task(self._make(app, model, run))
        return asyncio.create_task(self._follow_to_its_end(self._making))

    def cancel(self) -> None:
        """End it early, unless it is whole."""
        self._making.cancel()

    async def _make(
        self, app: web.Application, model: ServedModel, run: answer.Run
    ) -> list[ResponseEvent]:
        """The last events of the response; all others are said."""
        async with answer.running(app, model, run, key=self._owner, origin=self.origin) as events:
            self._say(self.builder.start())
            async for event in events:
                said = list(self.builder.add(event))
                if not isinstance(event, Finished):
                    self._say(said)
        return said

    async def _follow_to_its_end(self, making: asyncio.Task[list[ResponseEvent]]) -> None:
        """Whatever happens becomes the last event of the response, and it is kept."""
        try:
            last = await making
        except asyncio.CancelledError:
            last = [self.builder.cancel()]
        except Exception as error:  # A boundary: nobody waits for the task.
            last = [self.builder.fail(failure_of(error))]
        frames = [*self.frames, *self._framed(last)]
        try:
            if problem := await self._keep(frames):
                # Whoever asks for it later must find why it is not there.
                last = [self.builder.fail(Failure(500, f"It could not be stored: {problem}."))]
                frames = [*self.frames, *self._framed(last)]
                await self._keep(output=())
        finally:
            self.frames = frames
            self.over = True
            self._news.set()

    async def follow(self, after: int) -> AsyncIterator[tuple[int, bytes]]:
        """The events after a number, each with its own, as they come."""
        number = after + 1
        while True:
            while number < len(self.frames):
                yield number, self.frames[number]
                number += 1
            if self.over:
                return
            self._news.clear()
            await self._news.wait()

    def _say(self, events: Iterable[ResponseEvent]) -> None:
        self.frames += self._framed(events)
        self._news.set()

    def _framed(self, events: Iterable[ResponseEvent]) -> list[bytes]:
        return [framed(event, number) for number, event in enumerate(events, len(self.frames))]

    async def _keep(self, frames: Iterable[bytes] = (), **fields: Any) -> str:
        """See `KeptResponses.put`. fields: what is kept differently of the response."""
        response = msgspec.structs.replace(self.builder.response, **fields)
        texts = tuple(frame.decode() for frame in frames)
        changed = {"response": response, "frames": texts}
        record = msgspec.structs.replace(self._record, **changed)
        return await asyncio.to_thread(self._kept.put, self._owner, record)


class Jobs:
    """The jobs of a server that are not over."""

    def __init__(self) -> None:
        self._jobs: dict[tuple[str, str], tuple[Job, asyncio.Task[None]]] = {}

    def start(
        self, owner: str, job: Job, app: web.Application, model: ServedModel, run: answer.Run
    ) -> None:
        """Start a job."""
        key = (owner, job.builder.response.id)
        task = job.start(app, model, run)
        self._jobs[key] = (job, task)
        task.add_done_callback(lambda _: self._jobs.pop(key, None))

    def get(self, owner: str, id: str) -> Job | None:
        """A job that is not over."""
        job, _ = self._jobs.get((owner, id), (None, None))
        return job

    async def cancel(self, owner: str, id: str) -> None:
        """End a job, if it is not over, and wait until its response is kept."""
        job, task = self._jobs.get((owner, id), (None, None))
        if job is not None and task is not None:
            job.cancel()
            await asyncio.wait([task])

    async def close(self, app: web.Application) -> None:
        """End all jobs."""
        jobs = list(self._jobs.values())
        for job, _ in jobs:
            job.cancel()
        if jobs:
            await asyncio.wait([task for _, task in jobs])


class _Following:
    """The `StreamEncoder` of one who follows a stream. number: of the last event that was sent."""

    stream_type = "text/event-stream"

    def __init__(self, job: Job | None, number: int, headers: Mapping[str, str]):
        self.number = number
        self.headers = headers
        self._job = job

    def opening(self) -> bytes:
        """Nothing: the stream has its own beginning."""
        return b""

    def keep_alive(self) -> bytes:
        """The event that says that nothing has ended; it is no new one."""
        if self._job is None:
            return b""
        # The request of those who come later is not the one whose prompt is computed.
        event = self._job.builder.still_in_progress(self._job.origin.prefilled)
        return framed(event, max(self.number, 0))


async def stream_job(
    request: web.Request, job: Job, after: int, headers: Mapping[str, str] = {}
) -> web.StreamResponse:
    """Send the events of a job after a number; it goes on when the client goes."""
    following = _Following(job, after, headers)
    sender = answer.EventStream(request, following, request.app[CONFIG], request.app[LIMITS])
    async with sender:
        await sender.start()
        async for number, frame in job.follow(after):
            following.number = number
            await sender.send(frame)
    assert sender.response is not None
    return sender.response


async def stream_frames(request: web.Request, frames: Iterable[str]) -> web.StreamResponse:
    """Send the events of a stream that is over."""
    encoder = _Following(None, 0, {})
    sender = answer.EventStream(request, encoder, request.app[CONFIG], request.app[LIMITS])
    async with sender:
        await sender.start()
        for frame in frames:
            await sender.send(frame.encode())
    assert sender.response is not None
    return sender.response
