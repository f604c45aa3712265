"""One running request: the single mutable record that the scheduler and the groups share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from budmlx.protocol import GenerateRequest, RowErrorCode, with_image_keys

if TYPE_CHECKING:
    from budmlx.core.sample.grammar import RowGrammar

RowFault = tuple[RowErrorCode, str]
"""Why a row must end: the code of the error and its message."""


class RowError(Exception):
    """A row must end with the error `code`; the text is for the client."""

    code: RowErrorCode


# A row that ran alone for this many tokens after a fault may share a batch again.
PROBATION = 8


@dataclass(eq=False, slots=True)
class Row:
    """A row's tokens.

    ids: prompt and every generated token that has been read.
    keys: the same for comparing prompts: what stands for a picture differs by picture.
    sampled: generated tokens, the one that is still being computed included.
    solo_until: after a fault the row runs alone until it has produced this many tokens.
    started: its prefill began once already.
    cached: prompt tokens that came from the tree of prefixes, until its first token tells.
    from_disk: those of them that were read from disk before.
    states: what samplers and processors of plugins keep for this row, by slot.
    grammar: how far it has come in its grammar, if it has one.
    """

    request: GenerateRequest
    ids: list[int]
    keys: list[int]
    sampled: int
    solo_until: int | None = None
    started: bool = False
    cached: int = 0
    from_disk: int = 0
    states: dict[int, Any] = field(default_factory=dict)
    grammar: RowGrammar | None = None

    @classmethod
    def of(cls, request: GenerateRequest) -> Row:
        """A row that continues after `request.emitted_ids`."""
        ids = [*request.prompt_ids, *request.emitted_ids]
        keys = with_image_keys(ids, request.images) if request.images else ids
        return cls(request=request, ids=ids, keys=keys, sampled=len(request.emitted_ids))

    @property
    def produced(self) -> int:
        """Generated tokens that have been read."""
        return len(self.ids) - len(self.request.prompt_ids)

    @property
    def held(self) -> int:
        """Tokens that the row's cache holds after the step in flight."""
        return len(self.request.prompt_ids) + self.sampled - 1

    @property
    def solo(self) -> bool:
        """Whether the row must not share a batch now."""
        return self.solo_until is not None and self.produced < self.solo_until

    @property
    def last_step(self) -> bool:
        """Whether the token that is being computed is the last by length."""
        return self.sampled >= self.request.max_tokens

    def take(self, token: int) -> Literal["stop", "length"] | None:
        """Append a token that was read. Returns why the row ends with it, if it does."""
        self.ids.append(token)
        if self.keys is not self.ids:
            self.keys.append(token)
        if token in self.request.stop_ids:
            return "stop"
        return "length" if self.produced >= self.request.max_tokens else None

    def reset(self) -> None:
        """Forget what is being computed, so that the row can be prefilled again."""
        self.sampled = self.produced
        self.states.clear()
        if self.grammar is not None:
            self.grammar.reset()

    def suspect(self) -> None:
        """Run alone for a while: a fault happened in this row's company."""
        self.solo_until = self.produced + PROBATION

    def prefills_with(self, other: Row) -> bool:
        """Whether one prefill serves both: they are choices of one request, not yet begun."""
        fork = self.request.fork
        fresh = not (self.produced or other.produced or self.solo or other.solo)
        return fork != 0 and fork == other.request.fork and fresh
