"""Batch runner: answers the lines of batches, and goes on where a killed server was."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from budmlx.clock import CLOCK
from budmlx.engine.store.batches import BatchStore
from budmlx.engine.store.files import FileStore, StoredFile
from budmlx.errors import InvalidRequestError, OverloadedError, RequestFailedError
from budmlx.server.batches.active import Active
from budmlx.server.batches.record import (
    KEPT_SECONDS,
    SECONDS,
    Batch,
    InputLine,
    LineError,
    LineErrors,
    RequestCounts,
    Status,
    check_lines,
    error_line,
    new_batch,
    read_lines,
)
from budmlx.server.batches.reply import RETRY_SECONDS, reply
from budmlx.server.errors import HttpError, failure_of
from budmlx.server.line_request import LINES
from budmlx.server.records import BatchCounts

log = logging.getLogger(__name__)

KEEPING_SECONDS = 5.0
"""How long a batch that ends waits for a full disk."""
SWEEP_SECONDS = 60.0
OWN_INPUT = "message_batch"
"""Purpose of a file that is the input of one batch, and goes with it."""
INPUTS = ("batch", OWN_INPUT)
"""Purposes of files that batches read."""
MOST_KEPT = 1000
"""Batches of one API key that are kept, with those that are not over."""
MOST_ACTIVE = 64
"""Batches of one API key that are not over."""
UNTAKEN = {
    "cancelled": ("batch_cancelled", "The batch was cancelled."),
    "expired": ("batch_expired", "The batch expired before this request was answered."),
}

Result = TypeVar("Result")


class Batches:
    """The batches of a server. Used on its event loop.

    Their lines run in the background class, through the handlers of their endpoints.

    lines: how many run at once.
    """

    def __init__(self, app: web.Application, files: FileStore, lines: int):
        self.files = files
        self._app = app
        self._store = BatchStore(files.store)
        self._active: dict[str, Active] = {}
        self._places = asyncio.Semaphore(lines)
        self._lines = lines
        self._counts = BatchCounts()
        self._sweeper: asyncio.Task[None] | None = None

    def tally(self) -> BatchCounts:
        """The counts as they are now."""
        shown = [active.batch.request_counts.total for active in self._active.values()]
        done = sum(len(active.done) for active in self._active.values())
        return replace(self._counts, running=len(shown), waiting=max(0, sum(shown) - done))

    def running(self) -> list[tuple[str, Batch]]:
        """Those that are not over, each with the name of its API key."""
        return [(active.key_name(self._app), active.show()) for active in self._active.values()]

    # The life of the server

    async def start(self, _: web.Application) -> None:
        """Go on with what was not over."""
        for owner, data in await asyncio.to_thread(self._store.unfinished):
            if (batch := Batch.read(data)) is None:
                log.error("The record of a batch cannot be read; it is not gone on with")
                continue
            active = Active(owner, batch)
            await asyncio.to_thread(self._recall, active)
            self._begin(active)
        self._sweeper = asyncio.create_task(self._sweep())

    def _recall(self, active: Active) -> None:
        """Count what is answered of a batch."""
        for failed in (False, True):
            for number, data in self._store.numbered(active.batch.id, failed=failed):
                active.add(number, data, failed=failed)

    async def stop(self) -> None:
        """End all tasks; the next server goes on."""
        tasks = [active.task for active in self._active.values() if active.task is not None]
        tasks += [] if self._sweeper is None else [self._sweeper]
        self._sweeper = None
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def close(self, _: web.Application) -> None:
        """End everything."""
        await self.stop()
        await asyncio.to_thread(self.files.close)

    async def _sweep(self) -> None:
        while True:
            used = {active.batch.input_file_id for active in self._active.values()}
            try:
                for file in await asyncio.to_thread(self.files.expired):
                    if file.id not in used:
                        await asyncio.to_thread(self.files.remove, file)
                await asyncio.to_thread(self._store.forget, _is_old)
            except OverloadedError:
                pass  # The store has logged it.
            await asyncio.sleep(SWEEP_SECONDS)

    # What clients ask for

    async def create(self, owner: str, endpoint: str, file_id: str, **more: Any) -> Batch:
        """Begin a batch.

        Raises InvalidRequestError naming what is wrong, OverloadedError if the disk is full.
        """
        endpoints = self._app[LINES]
        if endpoint not in endpoints:
            known = ", ".join(sorted(endpoints))
            raise InvalidRequestError(f"`endpoint` must be one of {known}.", param="endpoint")
        if sum(each.owner == owner for each in self._active.values()) >= MOST_ACTIVE:
            raise InvalidRequestError(
                f"An API key has at most {MOST_ACTIVE} batches at once.", code="too_many_batches"
            )
        file = await asyncio.to_thread(self.files.get, owner, file_id)
        if file is None:
            raise InvalidRequestError("There is no such file.", param="input_file_id")
        if file.purpose not in INPUTS:
            raise InvalidRequestError(
                "The purpose of the file is not `batch`.", param="input_file_id"
            )
        await asyncio.to_thread(self.files.check, owner)
        await asyncio.to_thread(self._store.trim, owner, MOST_KEPT - 1)
        batch = new_batch(endpoint, file.id, "24h", self.files.tag, **more)
        active = Active(owner, batch)
        put = partial(self._store.put, owner, batch.id, msgspec.json.encode(batch))
        await asyncio.to_thread(put)
        self._begin(active)
        return batch

    async def get(self, owner: str, id: str) -> Batch:
        """A batch as it is now. Raises HttpError if the owner has none of this id."""
        active = self._active.get(id)
        if active is not None and active.owner == owner:
            return active.show()
        data = await asyncio.to_thread(self._store.get, owner, id)
        batch = None if data is None else Batch.read(data)
        if batch is None:
            raise HttpError(404, "There is no such batch.", code="not_found")
        return batch

    async def listed(self, owner: str) -> list[Batch]:
        """All batches of an owner, the newest first."""
        kept = await asyncio.to_thread(self._store.listed, owner)
        found = [batch for data in kept if (batch := Batch.read(data)) is not None]
        return [self._active[b.id].show() if b.id in self._active else b for b in found]

    async def cancel(self, owner: str, id: str) -> Batch:
        """Let a batch end early, with the replies that there are; one that is over stays."""
        batch, active = await self.get(owner, id), self._active.get(id)
        if active is None or active.ending:
            return batch
        active.ending = True
        # A client that leaves meanwhile does not leave a batch that nobody runs.
        return await asyncio.shield(asyncio.create_task(self._cancelled(active)))

    async def _cancelled(self, active: Active) -> Batch:
        assert active.task is not None
        active.task.cancel()
        await asyncio.wait([active.task])
        if active.batch.over:  # It ended before it could be told.
            return active.show()
        await self._keep(active, active.show().become("cancelling"))
        self._begin(active)
        return active.show()

    async def delete(self, owner: str, id: str) -> None:
        """Forget a batch that is over, with the files that it has written.

        Raises InvalidRequestError if it is not over, HttpError if the owner has none of this id.
        """
        batch = await self.get(owner, id)
        if id in self._active:
            raise InvalidRequestError("The batch has not ended; cancel it first.")
        await asyncio.to_thread(self._store.remove, owner, id)
        ids = (batch.output_file_id, batch.error_file_id, batch.input_file_id)
        for file_id in filter(None, ids):
            file = await asyncio.to_thread(self.files.get, owner, file_id)
            if file is not None and file.purpose != "batch":
                await asyncio.to_thread(self.files.remove, file)

    def uses(self, file_id: str) -> bool:
        """Whether a file is the input of a batch that is not over."""
        return any(active.batch.input_file_id == file_id for active in self._active.values())

    # The life of a batch

    def _begin(self, active: Active) -> None:
        self._active[active.batch.id] = active
        active.task = asyncio.create_task(self._run(active))

    async def _run(self, active: Active) -> None:
        """Bring a batch to its end, from wherever it is."""
        try:
            if active.batch.status == "validating":
                await self._validate(active)
            if active.batch.status == "in_progress":
                await self._answer(active)
            if not active.batch.over:
                await self._finalize(active)
        except Exception as error:  # A boundary: nobody waits for the task.
            failure = failure_of(error)
            problem = LineErrors([LineError("server_error", failure.message, None, None)])
            await self._keep(active, active.batch.become("failed", errors=problem))
        self._end(active)

    def _end(self, active: Active) -> None:
        """Count and tell that a batch is over."""
        batch = active.batch
        del self._active[batch.id]
        if batch.status in UNTAKEN:
            self._counts.lines[batch.status] += active.left
        self._counts.ended[batch.status] += 1
        active.tell_end(self._app)

    async def _validate(self, active: Active) -> None:
        batch = active.batch
        path = self.files.directory / batch.input_file_id
        count, errors = await asyncio.to_thread(check_lines, path, batch.endpoint)
        counts = RequestCounts(total=count)
        if errors is not None:
            await self._keep(active, batch.become("failed", errors=errors))
        else:
            await self._keep(active, batch.become("in_progress", request_counts=counts))
            active.tell(self._app, f"begins, {count} lines", lines=count)

    async def _answer(self, active: Active) -> None:
        """Answer the lines that have no reply yet, as far as the time goes."""
        # Never longer, when the clock was set back since it began.
        left = min(SECONDS, active.batch.expires_at - CLOCK.passed())
        try:
            async with asyncio.timeout(left) as limit, asyncio.TaskGroup() as tasks:
                own = asyncio.Semaphore(self._lines)
                async for line in self._unanswered(active):
                    await own.acquire()
                    task = tasks.create_task(self._line(active, line))
                    task.add_done_callback(lambda _: own.release())
        except TimeoutError:
            if not limit.expired():
                raise

    async def _unanswered(self, active: Active) -> AsyncIterator[InputLine]:
        lines = self._input(active.batch)
        while (line := await asyncio.to_thread(next, lines, None)) is not None:
            if line.number not in active.done:
                yield line

    def _input(self, batch: Batch) -> Iterator[InputLine]:
        path = self.files.directory / batch.input_file_id
        try:
            for line in read_lines(path, batch.endpoint):
                if isinstance(line, InputLine):  # All are, since they were checked.
                    yield line
        except OSError as error:
            raise RequestFailedError("The input cannot be read any more.") from error

    async def _line(self, active: Active, line: InputLine) -> None:
        async with self._places:
            batch = active.batch
            room = partial(self._check_room, active.owner)
            status, data = await reply(
                self._app, active.owner, batch.endpoint, line, batch.id, check=room
            )
        keeping = asyncio.create_task(self._keep_line(active, line.number, data, status >= 400))
        try:
            await asyncio.shield(keeping)
        except asyncio.CancelledError:
            # What is being written counts as written, or not, before anything else is decided.
            await asyncio.wait([keeping], timeout=KEEPING_SECONDS)
            keeping.cancel()
            raise

    async def _check_room(self, owner: str) -> None:
        """Raise InvalidRequestError if an API key may keep no more, with what is not a file yet."""
        running = [each for each in self._active.values() if each.owner == owner]
        written = sum(each.written for each in running if not each.ending)
        await self._patiently(partial(self.files.check, owner, written))

    async def _keep_line(self, active: Active, number: int, data: bytes, failed: bool) -> None:
        put = partial(self._store.put_line, active.batch.id, number, data, failed=failed)
        await self._patiently(put)
        active.add(number, data, failed=failed)
        self._counts.lines["failed" if failed else "completed"] += 1

    async def _finalize(self, active: Active) -> None:
        """Write the files of a batch whose lines are answered, or shall not be any more."""
        active.ending = True
        batch = active.show()
        final: Status = "completed"
        if batch.status == "cancelling":
            final = "cancelled"
        elif len(active.done) < batch.request_counts.total:
            final = "expired"
        if batch.status == "in_progress" and final == "completed":
            await self._keep(active, batch := batch.become("finalizing"))
        replies = partial(self._store.lines, batch.id, failed=False)
        output = await self._write(active, "output", replies)
        errors = await self._write(active, "error", partial(self._errors, active, final))
        ids = {"output_file_id": output, "error_file_id": errors}
        await self._keep(active, active.show().become(final, **ids))

    def _errors(self, active: Active, final: Status) -> Iterator[bytes]:
        yield from self._store.lines(active.batch.id, failed=True)
        if final in UNTAKEN and len(active.done) < active.batch.request_counts.total:
            for line in self._input(active.batch):
                if line.number not in active.done:
                    yield error_line(active.batch.id, line, *UNTAKEN[final])

    async def _write(
        self, active: Active, kind: str, lines: Callable[[], Iterator[bytes]]
    ) -> str | None:
        """Write a file unless it would be empty; returns its id, which is the same every time."""
        batch = active.batch
        now, seconds = int(CLOCK.now()), batch.output_expires_after or KEPT_SECONDS
        file = StoredFile(
            id=f"file-{batch.id.removeprefix('batch_')}-{kind}",
            owner=active.owner,
            name=f"{batch.id}_{kind}.jsonl",
            purpose="batch_output",
            size=0,
            created=now,
            expires=now + seconds,
        )

        def write() -> str | None:
            found = lines()
            first = next(found, None)
            return None if first is None else self.files.write(file, chain([first], found)).id

        return await self._patiently(write)

    async def _keep(self, active: Active, batch: Batch) -> None:
        data = msgspec.json.encode(batch)
        put = partial(self._store.put, active.owner, batch.id, data, over=batch.over)
        await self._patiently(put)
        active.batch = batch

    async def _patiently(self, work: Callable[[], Result]) -> Result:
        """Do work of the store, as soon as the disk lets it."""
        while True:
            try:
                return await asyncio.to_thread(work)
            except OverloadedError:
                await asyncio.sleep(RETRY_SECONDS)


def _is_old(data: bytes) -> bool:
    batch = Batch.read(data)
    return batch is None or batch.created_at + KEPT_SECONDS <= CLOCK.passed()


BATCHES = web.AppKey("batches", Batches)
