"""Token counts: how long the prompts of chats are. Those of the last ones are remembered."""

from __future__ import annotations

import hashlib
import threading

from budmlx.engine.procedures import drive
from budmlx.engine.request.prepare import Preparation
from budmlx.lookup import Bounded
from budmlx.types import Request

MAX_COUNTS = 1024


class TokenCounts:
    """Counts the tokens of prompts. Thread-safe."""

    def __init__(self, preparation: Preparation):
        self._preparation = preparation
        self._lock = threading.Lock()
        self._known: Bounded[bytes, int] = Bounded(count=MAX_COUNTS)

    def of(self, request: Request) -> int:
        """The tokens of the prompt of a chat. Raises the errors of `Preparation.template`."""
        if request.shows_images:  # Callers in Python may change them.
            return len(drive(self._preparation.template(request)))
        key = _key(request)
        with self._lock:
            count = self._known.get(key)
        if count is None:
            count = len(drive(self._preparation.template(request)))
            with self._lock:
                self._known.put(key, count)
        return count


def _key(request: Request) -> bytes:
    """A digest of all that the prompt is made of."""
    made_of = (
        request.messages,
        request.tools,
        request.tool_choice,
        request.chat_template_kwargs,
    )
    return hashlib.sha256(repr(made_of).encode("utf-8", "surrogatepass")).digest()
