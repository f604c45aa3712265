"""Places in the ids of a prompt: where messages and turns end, and where a request's marks are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from budmlx.engine.request.defaults import INSTRUCTIONS
from budmlx.engine.request.turns import turn_ends
from budmlx.engine.text.control_tokens import ControlTokens
from budmlx.errors import InvalidRequestError
from budmlx.types import Breakpoint, Message


class Places:
    """Finds places in a prompt by rendering beginnings of its messages.

    messages: those that are rendered. ids: of the prompt. render: the ids of other messages.
    """

    def __init__(
        self,
        messages: Sequence[Message],
        ids: Sequence[int],
        render: Callable[[Sequence[Message]], list[int]],
    ):
        self._messages = messages
        self._ids = ids
        self._render = render

    def of_turns(self, control: ControlTokens) -> tuple[int, ...]:
        """The places where the instructions end, where turns do, and where the last message begins.

        Turns are found by what a user's message begins with, as rendering them all takes long.
        """
        messages = self._messages
        first = next((i for i, m in enumerate(messages) if m.role not in INSTRUCTIONS), 0)
        users = [i for i, m in enumerate(messages) if m.role == "user"]
        counts = {first, len(messages) - 1, *users[-1:]} - {0, len(messages)}
        found = {count: self._common_with(messages[:count]) for count in counts}
        places = {place for place in found.values() if place}
        last = found.get(users[-1]) if users else None
        if last:
            places |= turn_ends(self._ids, last, control)
        return tuple(sorted(places))

    def of_marks(self, marks: Sequence[Breakpoint]) -> tuple[tuple[int, float], ...]:
        """The place of each breakpoint, and its seconds, ascending.

        marks: the messages that they count are the last ones of all that are rendered.
        """
        found: dict[int, float] = {}
        for mark in marks:
            beginning = _beginning(mark, self._messages)
            whole = len(beginning) == len(self._messages) and not mark.parts
            place = len(self._ids) if whole else self._common_with(beginning)
            if place:
                found[place] = max(found.get(place, 0.0), mark.seconds)
        return tuple(sorted(found.items()))

    def of_ends(self, affordable: int) -> tuple[int, ...]:
        """The places where messages end, from the first one on, of so many at most. A message
        after which the template refuses to end is taken together with the next.
        """
        counts = range(1, min(affordable + 1, len(self._messages)))
        places = [self._common_with(self._messages[:count]) for count in counts]
        if affordable >= len(self._messages) - 1:
            places.append(len(self._ids))
        ends: list[int] = []
        for place in reversed(places):
            if place is not None:
                ends.append(place)
            elif ends:
                ends.append(ends[-1])
        return tuple(reversed(ends))

    def _common_with(self, beginning: Sequence[Message]) -> int | None:
        """The number of ids shared with the prompt of `beginning`; None if it has none."""
        try:
            return _common(self._render(beginning), self._ids)
        except InvalidRequestError:
            # Templates refuse some beginnings of conversations that they take as a whole.
            return None


def farthest(marks: Sequence[Breakpoint]) -> tuple[Breakpoint, ...]:
    """Those that are not kept by a later one for as long."""
    kept: list[Breakpoint] = []
    for each in sorted(marks, key=_order, reverse=True):
        if all(each.seconds > later.seconds for later in kept):
            kept.append(each)
    return tuple(reversed(kept))


def _order(mark: Breakpoint) -> tuple[int, float]:
    return mark.messages, mark.parts or float("inf")


def _beginning(mark: Breakpoint, messages: Sequence[Message]) -> Sequence[Message]:
    """The messages up to a breakpoint."""
    beginning = messages[: mark.messages]
    if not mark.parts or not beginning or isinstance(beginning[-1].content, str):
        return beginning
    cut = replace(beginning[-1], content=beginning[-1].content[: mark.parts])
    return [*beginning[:-1], cut]


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """The number of ids that both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
