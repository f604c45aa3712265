"""Active batch: one that is not over, as its server knows it, and what the log says of it."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web

from budmlx.logs import fields
from budmlx.server.batches.record import Batch, RequestCounts
from budmlx.server.batches.usage import BatchUsage, usage_of
from budmlx.server.state import KEYS

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Active:
    """A batch that is not over.

    done: its lines with a reply, and whether that is an error. usage: their tokens. written:
    their bytes. ending: no line is to be begun.
    """

    owner: str
    batch: Batch
    done: dict[int, bool] = field(default_factory=dict)
    usage: BatchUsage = field(default_factory=BatchUsage)
    written: int = 0
    ending: bool = False
    task: asyncio.Task[None] | None = None

    def add(self, number: int, data: bytes, *, failed: bool) -> None:
        """Count the reply to a line, which is kept."""
        self.done[number] = failed
        self.usage += usage_of(data)
        self.written += len(data) + 1

    def show(self) -> Batch:
        """The batch with its counts as they are now."""
        failed = sum(self.done.values())
        total = self.batch.request_counts.total
        counts = RequestCounts(total, len(self.done) - failed, failed)
        return msgspec.structs.replace(self.batch, request_counts=counts, usage=self.usage)

    @property
    def left(self) -> int:
        """Lines without a reply."""
        return max(0, self.batch.request_counts.total - len(self.done))

    def key_name(self, app: web.Application) -> str:
        """The name of its API key; empty where none are set, or it was revoked."""
        return next((key.name for key in app[KEYS].all if key.sha256 == self.owner), "")

    def tell_end(self, app: web.Application) -> None:
        """Say in the log how it ended."""
        batch = self.batch
        counts, status = batch.request_counts, batch.status
        seconds = max(0, int(time.time()) - batch.created_at)
        problem = batch.errors.data[0].message if batch.errors else ""
        self.tell(
            app,
            f"{status}, {counts.completed} replies, {counts.failed} errors, {self.left} lines "
            f"left, {seconds} s. {problem}",
            status=status,
            completed=counts.completed,
            failed=counts.failed,
            left=self.left,
            seconds=seconds,
        )

    def tell(self, app: web.Application, text: str, **found: Any) -> None:
        """Say something in the log, with fields for programs."""
        batch, key = self.batch, self.key_name(app)
        named = {"batch": batch.id, "endpoint": batch.endpoint, **({"key": key} if key else {})}
        words = " ".join(f"{name}={value}" for name, value in named.items())
        log.info("Batch: %s %s", words, text.strip(), extra=fields(**named, **found))
