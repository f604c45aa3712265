"""Origin of a request: what its record says beside how it ended, who pays, how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from budmlx.engine.procedures import Procedure, off_loop
from budmlx.engine.reply.generation import Generation
from budmlx.plugins.specs import RequestRecord
from budmlx.types import Usage


class Reservation(Protocol):
    """Tokens that are held for one request."""

    @property
    def completion(self) -> int:
        """Those that it may generate."""

    def settle(self, usage: Usage | None) -> None:
        """Count what the request used, None for nothing, and let go of the rest."""


class Account(Protocol):
    """Who pays for the tokens of a request. Thread-safe."""

    @property
    def waits(self) -> bool:
        """Whether `reserve` waits for the disk."""

    def check(self) -> None:
        """Raise QuotaError if no token is left, whatever a request may take."""

    def reserve(self, prompt: int, completion: int, least: int) -> Reservation:
        """Hold tokens for a request.

        prompt: those of its prompt. completion: those that it generates at most; it gets fewer if
        there are not enough, but never fewer than `least`.

        Raises:
            QuotaError: there are too few.
        """


def reserved(account: Account, prompt: int, completion: int, least: int) -> Procedure[Reservation]:
    """What `Account.reserve` returns, or raises. One that is given up is counted."""
    reserve = partial(account.reserve, prompt, completion, least)
    if not account.waits:
        return reserve()
    return (yield from off_loop(reserve, unwanted=lambda held: held.settle(None)))


@dataclass(slots=True)
class RequestOrigin:
    """Where a request came from; see `RequestRecord`.

    recorded: an engine took the request, so its end is recorded there.
    generation: its tokens on their way, since it was given to the core.
    stored: the counts of the stored reply that answers it.
    sink: gets the record, on the thread on which the request ends. account: pays for it.
    background: it runs on what others leave. placeless: it takes no place in the server's queue.
    """

    request_id: str = ""
    response_id: str = ""
    key: str = ""
    route: str = ""
    started: float = field(default_factory=time.time)
    recorded: bool = False
    generation: Generation | None = None
    stored: Usage | None = None
    sink: Callable[[RequestRecord], object] | None = None
    account: Account | None = None
    background: bool = False
    placeless: bool = False

    @property
    def usage(self) -> Usage | None:
        """The tokens so far, known with the first event; None before."""
        if self.generation is None or not self.generation.answered:
            return self.stored
        return self.generation.usage

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


CALLER: ContextVar[RequestOrigin | None] = ContextVar("caller", default=None)
"""Where those requests come from that say nothing of it, such as those of a plugin's route."""


def calling() -> RequestOrigin:
    """The origin of a request that says nothing of it."""
    if (caller := CALLER.get()) is None:
        return RequestOrigin()
    return RequestOrigin(
        caller.request_id, key=caller.key, route=caller.route, account=caller.account
    )
