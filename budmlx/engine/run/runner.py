"""Rows on a host: their ids, and the frames in which their tokens come back."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

from budmlx.config import ModelConfig
from budmlx.engine.hosts.host import open_host
from budmlx.engine.reply.generation import Generation, Update
from budmlx.errors import BudmlxError
from budmlx.protocol import CoreSettings, GenerateRequest, StepFrame


class Runner:
    """Submits rows to a host and delivers what comes back to their generations. Thread-safe."""

    def __init__(self, settings: CoreSettings, config: ModelConfig):
        """Open the host that the configuration names. Raises ModelLoadError."""
        self._generations: dict[int, Generation] = {}
        self._ids = itertools.count(1)
        self.host = open_host(settings, self._receive, config)
        self.info = self.host.info

    def new_ids(self, count: int) -> list[int]:
        """Ids of so many rows."""
        return [next(self._ids) for _ in range(count)]

    def submit(self, generation: Generation, rows: Sequence[GenerateRequest]) -> None:
        """Queue the rows of a generation. What comes of them arrives in its mailbox.

        Raises:
            EngineUnavailableError, EngineClosedError: the host takes nothing.
        """
        self._generations.update(dict.fromkeys(generation.row_ids, generation))
        try:
            for row in rows:
                self.host.submit(row)
        except BudmlxError:
            self.release(generation)
            raise

    def drop_ended(self, generation: Generation) -> None:
        """Make rows leave the core whose text ended before it knew."""
        for row_id in generation.ended():
            self._drop(generation, row_id)

    def release(self, generation: Generation) -> bool:
        """Forget a generation, and drop its rows; whether it was known."""
        for row_id in sorted(generation.running):
            self._drop(generation, row_id)
        known = [self._generations.pop(row_id, None) for row_id in generation.row_ids]
        return any(known)

    def _drop(self, generation: Generation, row_id: int) -> None:
        generation.running.discard(row_id)
        self.host.cancel(row_id)

    def _receive(self, frame: StepFrame) -> None:
        """Hand a frame to its generations. Runs on the host's thread."""
        now = time.monotonic()
        for row_id in frame.started:
            if generation := self._generations.get(row_id):
                generation.stamp_start(now)
        updates: list[Update] = [*frame.tokens, *frame.failed]
        for update in updates:
            if generation := self._generations.get(update.id):
                generation.deliver((update,), now)
