"""Offline batches: the requests of a file, answered by an engine of the same process."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import BinaryIO

from aiohttp import web

from budmlx.config import Config
from budmlx.engine.engine import Engine
from budmlx.engine.models.models import Models
from budmlx.engine.run.batch_methods import BatchCounts
from budmlx.errors import BudmlxError, InvalidRequestError
from budmlx.progress import Progress
from budmlx.server.app import create_app
from budmlx.server.batches.record import InputLine, check_lines, read_lines
from budmlx.server.batches.reply import reply
from budmlx.server.line_request import LINES

NAME = "offline"
AT_ONCE = 64


async def answer_file(
    engine: Engine, source: Path, output: Path, tell: Progress, at_once: int = AT_ONCE
) -> BatchCounts:
    """Append the reply to each line of a file to another, but for lines that it has already.

    All lines ask the same endpoint, and the engine answers to every model name. tell: hears how
    many lines are done. at_once: lines that run at once.

    Raises:
        InvalidRequestError: the file has wrong lines; none is answered.
        BudmlxError: a file cannot be read or written.
    """
    config = Config.model_construct()
    app = create_app(Models.of(engine, any_name=True), config)
    app.freeze()
    await app.startup()
    try:
        answers = app[LINES]
        endpoint, total = await asyncio.to_thread(_checked, source, sorted(answers))
        done = await asyncio.to_thread(answered, output)
        with output.open("ab") as out:
            writer = _Writer(app, endpoint, out, tell, total)
            return await writer.answer(source, done, at_once)
    except OSError as error:
        raise BudmlxError(f"{error.filename or output}: {error.strerror}") from error
    finally:
        await app.cleanup()


class _Writer:
    """Answers lines and writes the replies, whole lines at a time."""

    def __init__(
        self, app: web.Application, endpoint: str, out: BinaryIO, tell: Progress, total: int
    ):
        self._app = app
        self._endpoint = endpoint
        self._out = out
        self._tell = tell
        self._total = total
        self._done = self._failed = 0

    async def answer(self, source: Path, done: dict[str, bool], at_once: int) -> BatchCounts:
        """Answer the lines that are not done; returns the numbers of all."""
        self._done, self._failed = len(done), sum(done.values())
        self._tell(self._done, self._total)
        places = asyncio.Semaphore(at_once)
        async with asyncio.TaskGroup() as tasks:
            lines = read_lines(source, self._endpoint)
            while (line := await asyncio.to_thread(next, lines, None)) is not None:
                if isinstance(line, InputLine) and line.custom_id not in done:
                    await places.acquire()
                    task = tasks.create_task(self._line(line))
                    task.add_done_callback(lambda _: places.release())
        return BatchCounts(self._total, self._done - self._failed, self._failed)

    async def _line(self, line: InputLine) -> None:
        status, data = await reply(self._app, "", self._endpoint, line, NAME)
        self._out.write(data + b"\n")
        self._out.flush()
        self._done += 1
        self._failed += status >= 400
        self._tell(self._done, self._total)


def answered(output: Path) -> dict[str, bool]:
    """The ids of the lines that a file has replies to, each with whether it is a failure.

    What a process that was killed left of a last line is cut off. Raises OSError.
    """
    done: dict[str, bool] = {}
    if not output.exists():
        return done
    with output.open("r+b") as file:
        end = 0
        for raw in file:
            if not raw.endswith(b"\n"):
                break
            try:
                entry = json.loads(raw)
                done[entry["custom_id"]] = entry["response"]["status_code"] >= 400
            except (ValueError, KeyError, TypeError) as error:
                raise InvalidRequestError(
                    f"{output} has a line that is no reply; name another file.", param="output"
                ) from error
            end += len(raw)
        file.truncate(end)
        os.fsync(file.fileno())
    return done


def _checked(source: Path, endpoints: list[str]) -> tuple[str, int]:
    """The endpoint that all lines ask, and their number. Raises InvalidRequestError."""
    with source.open("rb") as file:
        try:
            endpoint = str(json.loads(file.readline()).get("url"))
        except (ValueError, AttributeError):
            endpoint = endpoints[0]  # What is wrong with the line is found below.
    if endpoint not in endpoints:
        known = ", ".join(endpoints)
        raise InvalidRequestError(f"{source}:1: `url` must be one of {known}.", param="url")
    count, errors = check_lines(source, endpoint)
    if errors is not None:
        first = errors.data[0]
        place = f"{source}:{first.line}" if first.line else str(source)
        raise InvalidRequestError(f"{place}: {first.message}", param=first.param)
    return endpoint, count
