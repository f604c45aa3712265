"""Row: one running request, the record that the scheduler and the executor share.

The executor advances a row, since any executor that runs the same plans must advance it in the
same way; the scheduler reads it, and decides when it runs alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from budmlx.core.speculate.drafts import Drafts
from budmlx.protocol import (
    MOST_DRAFTED,
    GenerateRequest,
    ReasoningMeter,
    RowDraft,
    RowErrorCode,
    with_image_keys,
)

RowFault = tuple[RowErrorCode, str]
"""Why a row must end: the code of the error and its message."""


class RowError(Exception):
    """A row must end with the error `code`; the text is for the client."""

    code: RowErrorCode


class GrammarState(Protocol):
    """A row's position in its grammar. matcher: llguidance's. consumed: tokens so far."""

    matcher: Any
    consumed: int

    def follow(self, tokens: list[int]) -> str:
        """Consume further tokens. Returns the problem, or an empty string."""

    def forced(self, tokens: list[int]) -> list[int]:
        """Consume further tokens. Returns those after them in which there is no choice of text."""

    def reset(self) -> None:
        """Go back to the beginning; all of the row's tokens are consumed again."""


# A row that ran alone for this many tokens after a fault may share a batch again.
PROBATION = 8


NO_ADAPTER = "The adapter of this request was removed, or its files were changed or lost."


@dataclass(eq=False, slots=True)
class Row:
    """A row's request, its tokens and its position.

    ids: prompt and every generated token that has been read.
    keys: the same for comparing prompts, with keys of images in place of their placeholders.
    unread: tokens that have been drawn, or are being drawn, and are not in `ids` yet.
    solo_until: after a fault the row runs alone until it has produced this many tokens.
    quarantined_until: after a fault of the device, no such row of another trial runs beside it.
    trial: the number that it shares with suspects of such a fault that may run beside it.
    started: its prefill began once already.
    sent_back: how often it left the batch to wait again.
    turn_until: it makes way for no claim until it has produced this many tokens.
    cached: prompt tokens that were not computed, until the first token reports them.
    from_disk: those of them that were read from disk before.
    written: prompt tokens that were computed and stored for reuse, until then.
    draft: the last one that was checked, until a token reports it.
    states: what samplers and processors of plugins keep for this row, by slot.
    grammar: its position in its grammar, if it has one.
    drafts: what it may draw next; None if nothing is drafted for it.
    meter: its position in its budget of reasoning, if it has one.
    """

    request: GenerateRequest
    ids: list[int]
    keys: list[int]
    unread: int = 0
    solo_until: int | None = None
    quarantined_until: int | None = None
    trial: int = 0
    started: bool = False
    sent_back: int = 0
    turn_until: int = 0
    cached: int = 0
    from_disk: int = 0
    written: int = 0
    draft: RowDraft | None = None
    states: dict[int, Any] = field(default_factory=dict)
    grammar: GrammarState | None = None
    drafts: Drafts | None = None
    meter: ReasoningMeter | None = None

    @classmethod
    def of(cls, request: GenerateRequest) -> Row:
        """A row that continues after `request.emitted_ids`."""
        ids = [*request.prompt_ids, *request.emitted_ids]
        keys = with_image_keys(ids, request.images) if request.images else ids
        budget = request.reasoning
        return cls(request, ids, keys, meter=None if budget is None else ReasoningMeter(budget))

    @property
    def id(self) -> int:
        """The number by which plans and messages name the row."""
        return self.request.id

    @property
    def background(self) -> bool:
        """Whether it runs only on what interactive rows leave."""
        return self.request.background

    @property
    def produced(self) -> int:
        """Generated tokens that have been read."""
        return len(self.ids) - len(self.request.prompt_ids)

    @property
    def position(self) -> int:
        """Index of the next token to be drawn among the generated ones."""
        return self.produced + self.unread

    @property
    def held(self) -> int:
        """Tokens that the row's cache holds after the step in flight: all but the next one fed."""
        return len(self.ids) + self.unread - 1

    @property
    def room(self) -> int:
        """Tokens that the row's cache must have room for in the next step."""
        return len(self.ids) + 1 + (0 if self.drafts is None else MOST_DRAFTED)

    @property
    def last_step(self) -> bool:
        """Whether the last token by length is being drawn already."""
        return self.position >= self.request.max_tokens

    @property
    def fresh(self) -> bool:
        """Whether none of its tokens has been read by this core."""
        return self.produced == len(self.request.emitted_ids)

    @property
    def solo(self) -> bool:
        """Whether the row must not share a batch now."""
        return self.solo_until is not None and self.produced < self.solo_until

    @property
    def quarantined(self) -> bool:
        """Whether the row must not run beside one of another trial of which this is true."""
        return self.quarantined_until is not None and self.produced < self.quarantined_until

    def history(self) -> list[int]:
        """A copy of the ids before the token that is fed next, as far as they have been read."""
        return self.ids[: self.held]

    def generated(self, begin: int = 0) -> list[int]:
        """A copy of the generated tokens that have been read, from place `begin` on."""
        return self.ids[len(self.request.prompt_ids) + begin :]

    def advance(self, count: int = 1) -> None:
        """Count `count` further tokens that are being drawn."""
        self.unread += count

    def commit(self, tokens: Sequence[int]) -> Literal["stop", "length"] | None:
        """Append tokens that were read. Returns the finish reason if the row ends.

        Those that were drawn beyond its end are left out.
        """
        request, ids = self.request, self.ids
        end = len(request.prompt_ids) + request.max_tokens
        for token in tokens:
            self.unread -= 1
            ids.append(token)
            if self.keys is not ids:
                self.keys.append(token)
            if token in request.stop_ids:
                return "stop"
            if self.drafts is not None:
                self.drafts.follow(token)
            if len(ids) >= end:
                return "length"
        return None

    def rewind(self, count: int) -> None:
        """Forget the last `count` tokens that were drawn and not read."""
        self.unread -= count

    def reset(self, *, doubtful: bool = False) -> None:
        """Forget everything that is not in `ids`, so that the row can be prefilled again.

        doubtful: a fault may have spoilt what plugins keep; they begin anew then.
        """
        if self.unread or doubtful:
            self.states.clear()
        self.rewind(self.unread)
        for state in (self.grammar, self.meter):
            if state is not None:
                state.reset()

    def suspect(self) -> None:
        """Let the row run alone for a while, after a fault of a batch that it was in."""
        self.solo_until = self.produced + PROBATION

    def quarantine(self, trial: int) -> None:
        """Let the row run without suspects of other trials for a while, after a device's fault."""
        self.trial = trial
        self.quarantined_until = self.produced + PROBATION

    def prefills_with(self, other: Row) -> bool:
        """Whether one prefill serves both: they are choices of one request, not yet begun."""
        fork = self.request.fork
        if not fork or fork != other.request.fork or self.trial != other.trial:
            return False
        return not (self.produced or other.produced or self.solo or other.solo)


def adapters_of(rows: Sequence[Row]) -> list[str]:
    """The adapter of each row, empty for none; nothing at all if no row has one."""
    adapters = [row.request.adapter for row in rows]
    return adapters if any(adapters) else []


def requests_of(rows: Iterable[Row]) -> str:
    """The ids of the HTTP requests of rows, for the log."""
    return ", ".join(sorted({row.request.request for row in rows} - {""}))
