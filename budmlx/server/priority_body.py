"""Priority body: one that asks for no text, and may ask for the background."""

from __future__ import annotations

from pydantic import Field

from budmlx.server.line_request import AnyRequest
from budmlx.server.security import priority_of
from budmlx.server.wire import WireModel
from budmlx.types import Priority


class PriorityBody(WireModel):
    """A body that asks for no text, and may ask for the background."""

    priority: Priority | None = Field(
        None, description="`background` runs only on what interactive requests leave."
    )

    def priority_in(self, request: AnyRequest) -> Priority:
        """Its class. Raises as `priority_of`."""
        return priority_of(request, self.priority, low=self.priority == "background")
