"""Origin of a request: what its record for plugins says beside how it ended."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from budmlx.plugins.specs import RequestRecord


@dataclass(slots=True)
class RequestOrigin:
    """Where a request came from; see `RequestRecord`.

    recorded: an engine took the request, so its end is recorded there.
    """

    request_id: str = ""
    response_id: str = ""
    key: str = ""
    route: str = ""
    started: float = field(default_factory=time.time)
    recorded: bool = False

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
