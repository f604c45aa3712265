"""Generation: the tokens of one request become events for the caller."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from budmlx.engine.procedures import Mailbox
from budmlx.engine.reply.answer import Answer
from budmlx.engine.reply.output_reader import OutputReader, event_of
from budmlx.engine.reply.plugin_filters import FilterChain
from budmlx.engine.text.decode import TextStream
from budmlx.engine.text.logprobs import LogprobReader
from budmlx.errors import (
    BudmlxError,
    ContextLengthError,
    EngineUnavailableError,
    InvalidRequestError,
    ModelNotFoundError,
    PluginError,
    RequestFailedError,
)
from budmlx.plugins.parsing import Content, Piece, Thought
from budmlx.protocol import ReasoningMeter, RowDraft, RowFailed, Token, draft_usage
from budmlx.types import (
    ChoiceFinished,
    Event,
    Finished,
    FinishReason,
    MissReason,
    TextDelta,
    Timing,
    TokenLogprob,
    Usage,
)

if TYPE_CHECKING:
    from budmlx.engine.reuse.tracker import Submission

Update = Token | RowFailed
"""Messages of the core about a row."""

ERRORS: dict[str, type[BudmlxError]] = {
    "context_length_exceeded": ContextLengthError,
    "request_failed": RequestFailedError,
    "engine_unavailable": EngineUnavailableError,
    "non_finite_logits": RequestFailedError,
    "plugin_error": PluginError,
    "invalid_grammar": InvalidRequestError,
    "grammar_error": RequestFailedError,
    "session_error": InvalidRequestError,
    "model_not_found": ModelNotFoundError,
}

REASONING_CUT = (
    "The reasoning was ended after as many tokens as max_reasoning_tokens, or the effort, allows."
)


def error_of(failed: RowFailed) -> BudmlxError:
    """The error by which a request ends whose row failed."""
    error = ERRORS[failed.code](failed.message, code=failed.code)
    error.param = failed.param
    return error


@dataclass(frozen=True, slots=True)
class RowText:
    """The parts that make the text of one row. reader: None if no logprobs are wanted.

    output: takes reasoning and calls out of the text. answer: the part of it that takes out the
    reasoning and knows the stops. hide: reasoning is not reported. meter: its budget.
    """

    text: TextStream
    reader: LogprobReader | None = None
    filters: FilterChain | None = None
    output: OutputReader | None = None
    answer: Answer | None = None
    hide: bool = False
    meter: ReasoningMeter | None = None


class _ChoiceText:
    """The text of one row, and the logprobs of the tokens that it is made of."""

    def __init__(self, number: int, row: RowText):
        self.number = number
        self.reason: FinishReason | None = None
        self._text = row.text
        self._reader = row.reader
        self._filters = row.filters
        self._output = row.output
        self._answer = row.answer
        self._hide = row.hide
        self._meter = row.meter
        self._shown = 0
        self._ends: deque[int] = deque()
        self._without_text = 0
        self.reasoning_tokens = 0
        self.ids: list[int] = []

    @property
    def reasoning_was_cut(self) -> bool:
        """Whether the reasoning has used its budget up."""
        meter = self._meter
        if meter is not None:
            meter.follow(self.ids[meter.consumed :])
        return meter is not None and meter.cut

    def take(self, updates: Sequence[Token]) -> list[Event]:
        """Events of the row's new tokens."""
        shown = ""
        for update in updates:
            # The id that ends a row is a control token or the caller's stop id: no text.
            if update.reason != "stop":
                self.ids.append(update.token)
                begin = self._text.decoded
                shown += self._text.push(update.token)
                if self._answer is not None:
                    self._answer.token(update.token, begin, self._text.decoded)
                if self._reader is not None:
                    self._reader.push(update, self._text.decoded)
                if self._output is not None:
                    self._note_end(begin)
            if update.reason is not None and not self._text.stopped:
                begin = self._text.decoded
                shown += self._text.finish()
                self._note_end(begin, tokens=0)
            self.reason = "stop" if self._text.stopped else update.reason
            if self.reason is not None:
                break
        last = self.reason is not None
        if self._output is None:
            self._shown += len(shown)
            events = self._content(shown, 0, self._shown, last=last)
        else:
            events = self._parsed(self._output, shown, last=last)
        if self.reason is not None:
            events.append(ChoiceFinished(self.reason, self.number, self._stop))
        return events

    @property
    def _stop(self) -> str:
        """The stop string that ended the row, if one did."""
        if self.reason != "stop":
            return ""
        return self._text.stop if self._answer is None else self._answer.stop

    def _note_end(self, begin: int, tokens: int = 1) -> None:
        """Note where the text of a token ends, which begins at `begin`, and of those before it
        that had no text, since they are parts of its first character."""
        end = self._text.decoded
        if end == begin:
            self._without_text += tokens
            return
        self._ends.extend([begin + 1] * self._without_text + [end] * tokens)
        self._without_text = 0

    def _parsed(self, output: OutputReader, text: str, *, last: bool) -> list[Event]:
        """The events of new text that may hold reasoning and calls."""
        events: list[Event] = []
        for piece in self._read(output, text, last=last):
            if isinstance(piece, Content):
                end = piece.start + len(piece.text)
                events += self._content(piece.text, piece.start, end, last=False)
                if self.reason == "content_filter":
                    return events
                continue
            if isinstance(piece, Thought):
                self._count_reasoning(piece)
                if self._hide:
                    continue
            events.append(event_of(output, piece, self.number))
        if output.calls and (output.ended or self.reason == "stop"):
            self.reason = "tool_calls"
        if self.reason is not None and self._filters is not None:
            events += self._content("", 0, 0, last=True)
        return events

    def _read(self, output: OutputReader, text: str, *, last: bool) -> Iterator[Piece]:
        """The pieces of new text; a stop in the answer ends the row."""
        finished = self.reason == "stop" and not self._text.stopped
        for ended in (last, True):
            for piece in output.push(text, last=ended, finished=finished):
                if self._answer is not None and self._answer.stopped:
                    self.reason = "stop"
                yield piece
            if self._answer is None or not self._answer.stopped:
                return
            self.reason, text, finished = "stop", "", False

    def _content(self, text: str, start: int, end: int, *, last: bool) -> list[Event]:
        """Content that stands between two places of all the text."""
        if self._filters is not None:
            text = self._filters.push(text, last=last)
            if self._filters.ended:
                self.reason = "content_filter"
        logprobs: tuple[TokenLogprob, ...] = ()
        if self._reader is not None:
            logprobs = self._reader.take(end, ended=self.reason is not None, start=start)
        return [TextDelta(text, self.number, logprobs)] if text or logprobs else []

    def _count_reasoning(self, piece: Thought) -> None:
        end = piece.start + len(piece.text)
        while self._ends and self._ends[0] <= end:
            self.reasoning_tokens += self._ends.popleft() > piece.start


class Generation:
    """The state of one request between the core and the caller: one row for each choice.

    submission: the prompt as the core got it. from_disk: tokens of it that were read there.
    left: tokens of a long prompt that were not computed yet, as far as is known. reason: why no
    more of it was reused, once that is known.
    over: the terminal event is out. running: rows that the core still works on.
    The host's thread only stamps times and fills the mailbox; text is made where the
    events are consumed, so that a slow reader delays no other request.
    """

    def __init__(
        self,
        submission: Submission,
        rows: Mapping[int, RowText],
        mailbox: Mailbox[Sequence[Update]],
    ):
        self.over = False
        self.left: int | None = None
        self.running = set(rows)
        self._choices = {
            row_id: _ChoiceText(number, row) for number, (row_id, row) in enumerate(rows.items())
        }
        self._mailbox = mailbox
        self.submission = submission
        self._completion_tokens = 0
        self._cached_tokens: int | None = None
        self._written_tokens = 0
        self._drafts: list[RowDraft] = []
        self.from_disk = 0
        self.reason: MissReason | None = None
        self._submitted = time.monotonic()
        self._started: float | None = None
        self._first: float | None = None
        self._last = self._submitted

    @property
    def written(self) -> list[list[int]]:
        """The ids of each choice so far, without those that end it."""
        return [choice.ids for choice in self._choices.values()]

    @property
    def adapter(self) -> str:
        """The digest of the adapter that the rows use; empty for none."""
        return self.submission.adapter

    @property
    def row_ids(self) -> list[int]:
        """The rows of the choices, in their order."""
        return list(self._choices)

    @property
    def begun(self) -> bool:
        """The core took a row out of its queue."""
        return self._started is not None

    @property
    def answered(self) -> bool:
        """The first events are made, and what of the prompt was cached is known."""
        return self._cached_tokens is not None

    def stamp_start(self, now: float) -> None:
        """The core took a row out of its queue at `now`."""
        self._started = self._started or now

    def deliver(self, updates: Sequence[Update], now: float) -> None:
        """Take the updates of a frame for these rows. Called on the host's thread."""
        self._first, self.left = self._first or now, None
        self._last = now
        for update in updates:
            if isinstance(update, RowFailed) or update.reason is not None:
                self.running.discard(update.id)
        self._mailbox.put(updates)

    def events(self, updates: Sequence[Update]) -> Iterator[Event]:
        """Events of these updates; sets `over` once the terminal one is out.

        Raises:
            BudmlxError: a row failed. This is the request's terminal event.
        """
        tokens: dict[int, list[Token]] = {}
        for update in updates:
            if isinstance(update, RowFailed):
                self.over = True
                raise self._error(update)
            if self._choices[update.id].reason is None:
                tokens.setdefault(update.id, []).append(update)
        for row_id, new in tokens.items():
            if self._cached_tokens is None and row_id == self.row_ids[0]:
                self._cached_tokens, self.from_disk = new[0].cached, new[0].from_disk
                self._written_tokens = new[0].written
            self._completion_tokens += len(new)
            self._drafts += [token.draft for token in new if token.draft is not None]
            yield from self._choices[row_id].take(new)
        reasons = [choice.reason for choice in self._choices.values()]
        if tokens and None not in reasons:
            self.over = True
            yield Finished(
                tuple(r for r in reasons if r),
                self.usage,
                self.timing,
                warnings=self._warnings(),
            )

    def ended(self) -> list[int]:
        """Rows that need no more tokens, because their text ended before the core knew."""
        return sorted([i for i in self.running if self._choices[i].reason is not None])

    def _error(self, failed: RowFailed) -> BudmlxError:
        error = error_of(failed)
        if isinstance(error, ContextLengthError):  # The core does not know what the ids were.
            error.param = "messages" if self.submission.is_chat else "prompt"
            error.tokens, error.limit = len(self.submission.prompt.ids), failed.limit
        return error

    def _warnings(self) -> tuple[str, ...]:
        if not any(choice.reasoning_was_cut for choice in self._choices.values()):
            return ()
        return (REASONING_CUT,)

    @property
    def usage(self) -> Usage:
        """The tokens so far."""
        reasoning = sum(choice.reasoning_tokens for choice in self._choices.values())
        return Usage(
            len(self.submission.prompt.ids),
            self._completion_tokens,
            cached_tokens=self._cached_tokens or 0,
            reasoning_tokens=reasoning,
            written_tokens=self._written_tokens,
            **(draft_usage(self._drafts) if self._drafts else {}),
        )

    @property
    def timing(self) -> Timing:
        """The times so far."""
        started = self._started or self._submitted
        first = self._first or started
        return Timing(
            queue=started - self._submitted, prompt=first - started, completion=self._last - first
        )
