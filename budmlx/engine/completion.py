"""A whole reply from its events."""

from __future__ import annotations

from collections.abc import Sequence

from budmlx.types import Choice, Completion, Event, Finished, TextDelta


def completion(model: str, warnings: Sequence[str], events: Sequence[Event]) -> Completion:
    """Put the events of a request that went well together; the last one is `Finished`."""
    finished = events[-1]
    assert isinstance(finished, Finished)
    deltas: list[list[TextDelta]] = [[] for _ in finished.reasons]
    for event in events:
        if isinstance(event, TextDelta):
            deltas[event.choice].append(event)
    choices = (
        Choice(
            "".join(delta.text for delta in of_choice),
            reason,
            tuple(entry for delta in of_choice for entry in delta.logprobs),
        )
        for of_choice, reason in zip(deltas, finished.reasons, strict=True)
    )
    return Completion(
        tuple(choices),
        finished.usage,
        finished.timing,
        model=model,
        warnings=tuple(warnings),
        cached=finished.cached,
    )
