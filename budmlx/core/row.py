"""One running request: the single mutable record that the scheduler and the groups share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from budmlx.protocol import GenerateRequest

# A row that ran alone for this many tokens after a fault may share a batch again.
PROBATION = 8


@dataclass(eq=False, slots=True)
class Row:
    """A row's tokens and where it is.

    ids: prompt and every generated token that has been read.
    cache: one entry per layer while the row prefills; its group owns the state after that.
    computed: how many of `ids` the cache holds.
    sampled: generated tokens, the one that is still being computed included.
    solo_until: after a fault the row runs alone until it has produced this many tokens.
    """

    request: GenerateRequest
    ids: list[int]
    sampled: int
    cache: list[Any] | None = None
    computed: int = 0
    solo_until: int | None = None
    started: bool = False

    @classmethod
    def of(cls, request: GenerateRequest) -> Row:
        """A row that continues after `request.emitted_ids`."""
        ids = [*request.prompt_ids, *request.emitted_ids]
        return cls(request=request, ids=ids, sampled=len(request.emitted_ids))

    @property
    def produced(self) -> int:
        """Generated tokens that have been read."""
        return len(self.ids) - len(self.request.prompt_ids)

    @property
    def remaining_prefill(self) -> int:
        """Tokens to prefill before the last one, which the first decode step takes."""
        return len(self.ids) - 1 - self.computed

    @property
    def solo(self) -> bool:
        """Whether the row must not share a batch now."""
        return self.solo_until is not None and self.produced < self.solo_until

    @property
    def last_step(self) -> bool:
        """Whether the token that is being computed is the last by length."""
        return self.sampled >= self.request.max_tokens

    def reason_after(self, token: int) -> Literal["stop", "length"] | None:
        """Why the row ends with `token`, the newest of `ids`; None when it goes on."""
        if token in self.request.stop_ids:
            return "stop"
        return "length" if self.produced >= self.request.max_tokens else None

    def reset(self) -> None:
        """Forget everything computed, so that the row can be prefilled again from its ids."""
        self.cache = None
        self.computed = 0
        self.sampled = self.produced

    def suspect(self) -> None:
        """Run alone for a while: a fault happened in this row's company."""
        self.solo_until = self.produced + PROBATION
