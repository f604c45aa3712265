"""Breakpoints: where in a prompt's ids the places are that a request marks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from budmlx.types import Breakpoint, Message


def farthest(breakpoints: Sequence[Breakpoint]) -> tuple[Breakpoint, ...]:
    """Those that are not kept by a later one for as long."""
    kept: list[Breakpoint] = []
    for each in sorted(breakpoints, key=_order, reverse=True):
        if all(each.seconds > later.seconds for later in kept):
            kept.append(each)
    return tuple(reversed(kept))


def places(
    breakpoints: Sequence[Breakpoint],
    messages: Sequence[Message],
    length: int,
    common: Callable[[Sequence[Message]], int | None],
) -> tuple[tuple[int, float], ...]:
    """The place of each breakpoint among the ids, and its seconds, in ascending order.

    messages: those that are rendered; the breakpoints count the last ones of them. length: of
    the prompt. common: the number of ids that it shares with the prompt of other messages.
    """
    found: dict[int, float] = {}
    for each in breakpoints:
        beginning = _beginning(each, messages)
        place = length if len(beginning) == len(messages) and not each.parts else common(beginning)
        if place:
            found[place] = max(found.get(place, 0.0), each.seconds)
    return tuple(sorted(found.items()))


def _order(each: Breakpoint) -> tuple[int, float]:
    return each.messages, each.parts or float("inf")


def _beginning(each: Breakpoint, messages: Sequence[Message]) -> Sequence[Message]:
    """The messages up to a breakpoint."""
    beginning = messages[: each.messages]
    if not each.parts or not beginning or isinstance(beginning[-1].content, str):
        return beginning
    cut = replace(beginning[-1], content=beginning[-1].content[: each.parts])
    return [*beginning[:-1], cut]
