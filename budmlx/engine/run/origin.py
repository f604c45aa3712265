"""Origin of a request: what its record for plugins says beside how it ended, and how far it is."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from budmlx.engine.reply.generation import Generation
from budmlx.plugins.specs import RequestRecord


@dataclass(slots=True)
class RequestOrigin:
    """Where a request came from; see `RequestRecord`.

    recorded: an engine took the request, so its end is recorded there.
    generation: its tokens on their way, since it was given to the core.
    """

    request_id: str = ""
    response_id: str = ""
    key: str = ""
    route: str = ""
    started: float = field(default_factory=time.time)
    recorded: bool = False
    generation: Generation | None = None

    @property
    def prefilled(self) -> tuple[int, int] | None:
        """How many tokens of the prompt are computed, and of how many, while that takes time.

        None before and afterwards, and for prompts that take one step. May be asked at any time.
        """
        generation = self.generation
        if generation is None or (left := generation.left) is None:
            return None
        total = len(generation.submission.prompt.ids)
        return max(total - left, 0), total

    def record(self, **values: Any) -> RequestRecord:
        """The record of a request that ends now. values: the other fields."""
        return RequestRecord(
            request_id=self.request_id,
            response_id=self.response_id,
            key=self.key,
            route=self.route,
            started=self.started,
            finished=time.time(),
            **values,
        )
