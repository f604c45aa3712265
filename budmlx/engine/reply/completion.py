"""Completion: a whole reply from its events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ValidationError

from budmlx.types import (
    Choice,
    ChoiceFinished,
    Completion,
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    ToolCall,
    ToolCallDelta,
)


def completion(model: str, warnings: Sequence[str], events: Sequence[Event]) -> Completion:
    """Build the completion from the events of a successful request; the last one is `Finished`."""
    finished = events[-1]
    assert isinstance(finished, Finished)
    choices = tuple(
        _choice([event for event in events if _of(event, number)], reason)
        for number, reason in enumerate(finished.reasons)
    )
    return Completion(
        choices,
        finished.usage,
        finished.timing,
        model=model,
        warnings=(*warnings, *finished.warnings),
        cached=finished.cached,
        cache_explanation=finished.cache_explanation,
    )


def _of(event: Event, number: int) -> bool:
    return not isinstance(event, Finished) and event.choice == number


def _choice(events: Sequence[Event], reason: FinishReason) -> Choice:
    texts = [event for event in events if isinstance(event, TextDelta)]
    return Choice(
        "".join(event.text for event in texts),
        reason,
        tuple(entry for event in texts for entry in event.logprobs),
        "".join(event.text for event in events if isinstance(event, ReasoningDelta)),
        tool_calls(event for event in events if isinstance(event, ToolCallDelta)),
        stop="".join(event.stop for event in events if isinstance(event, ChoiceFinished)),
    )


def tool_calls(deltas: Iterable[ToolCallDelta]) -> tuple[ToolCall, ...]:
    """The tool calls of one choice, joined from their pieces."""
    pieces: dict[int, list[ToolCallDelta]] = {}
    for delta in deltas:
        pieces.setdefault(delta.index, []).append(delta)
    return tuple(
        ToolCall(of_call[0].id, of_call[0].name, "".join(piece.arguments for piece in of_call))
        for of_call in pieces.values()
    )


def with_parsed(done: Completion, model: Any) -> Completion:
    """The reply with each choice's content as an object, where it is whole and valid.

    model: what the caller gave as `response_format`; only a pydantic class is of use.
    """
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return done
    choices = (replace(choice, parsed=_parsed(choice, model)) for choice in done.choices)
    return replace(done, choices=tuple(choices))


def _parsed(choice: Choice, model: type[BaseModel]) -> BaseModel | None:
    if choice.finish_reason != "stop":
        return None
    try:
        return model.model_validate_json(choice.text)
    except ValidationError:  # A rule of the class that its schema does not express.
        return None
