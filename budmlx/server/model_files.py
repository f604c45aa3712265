"""Files of models over HTTP: fetched from the hub, with progress, and deleted from its cache."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import suppress
from functools import partial
from typing import Any

from budmlx.engine.load.library.pull import PullProgress, pull
from budmlx.engine.load.library.removal import Removal
from budmlx.engine.models.models import Models
from budmlx.engine.models.resident import Resident
from budmlx.errors import BudmlxError, InvalidRequestError, ModelNotFoundError
from budmlx.threads import run_apart


async def pulling(
    models: Models, name: str, revision: str | None = None
) -> AsyncGenerator[PullProgress, None]:
    """Fetch a model; yields how far it is, once the hub has said that there is one.

    Closing the generator ends it; it can be resumed by another. At the end the model is offered.

    Raises:
        InvalidRequestError: it cannot be fetched; before the first item.
        BudmlxError: it could not be fetched to its end.
    """
    loop, news = asyncio.get_running_loop(), asyncio.Queue[PullProgress]()
    cancelled = threading.Event()

    def report(progress: PullProgress) -> None:
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(news.put_nowait, progress)

    # Not on the loop's own threads, for whose end a server waits.
    call = partial(pull, name, revision, report, cancelled)
    work = asyncio.wrap_future(run_apart("budmlx-pull-request", call))
    work.add_done_callback(_seen)
    begun = False
    try:
        while (latest := await _next(news, work)) is not None:
            if latest.stage != "checking":
                begun = True
                yield latest
        await work
    except BudmlxError as error:
        if begun:
            raise
        raise InvalidRequestError(error.message, param="model") from error
    finally:
        cancelled.set()
    await asyncio.to_thread(models.refresh)


def _seen(work: asyncio.Future[Any]) -> None:
    """Look at the error of a pull, which nobody else does where the client has gone."""
    if not work.cancelled():
        work.exception()


async def _next(
    news: asyncio.Queue[PullProgress], work: asyncio.Future[Any]
) -> PullProgress | None:
    """The latest progress; None when the work has ended and nothing is left to be told."""
    waiting = asyncio.create_task(news.get())
    try:
        await asyncio.wait([waiting, work], return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            return None
    finally:
        waiting.cancel()
    latest = waiting.result()
    while not news.empty():
        latest = news.get_nowait()
    return latest


async def removed(models: Models, name: str) -> int:
    """Delete a model that is not loaded from the hub's cache; returns bytes that are free again.

    Raises:
        ModelNotFoundError: there is no such model on this machine.
        InvalidRequestError: it is loaded, or elsewhere than in the hub's cache.
    """
    return await asyncio.to_thread(_remove, models, name)


def _remove(models: Models, name: str) -> int:
    try:
        removal = Removal.of(models.library, name)
        # Looking at large caches takes long, and a load may have begun meanwhile.
        if _used(models, removal):
            raise InvalidRequestError(f"{name} is loaded; unload it first.", param="model")
        removal.execute()
    except (InvalidRequestError, ModelNotFoundError):
        raise
    except BudmlxError as error:
        raise InvalidRequestError(error.message, param="model") from error
    models.refresh()
    return removal.freed


def _used(models: Models, removal: Removal) -> bool:
    """Whether a model is loaded, or being loaded, from the files that are to go.

    Its name may be another one, and a pattern may give the name to another model.
    """
    residents = list(models.residents)
    with suppress(ModelNotFoundError):  # One that is being fetched is not listed yet.
        residents.append(models.find(removal.name, default=False).resident)
    return any(_uses(models, each, removal) for each in residents if not each.idle)


def _uses(models: Models, resident: Resident, removal: Removal) -> bool:
    if resident.name == removal.name:
        return True
    files = models.descriptions.files(resident)
    if files is None:
        return False
    return files.path.resolve().is_relative_to(removal.folder.resolve())
