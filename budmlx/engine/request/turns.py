"""Turns: where they end in the token ids of a conversation."""

from __future__ import annotations

from collections.abc import Sequence

from budmlx.engine.text.control_tokens import ControlTokens

# Most tokens from a message's control token to the place where it differs from other roles'.
NEAR = 3


def turn_ends(ids: Sequence[int], place: int, control: ControlTokens) -> set[int]:
    """The places before `place` at which messages of the same role as the one there begin.

    place: where the ids begin to depend on a message, which may be within its first tokens: the
    prompt without it has the same control token there, before another role. Messages are told by
    the control token that they begin with, since text cannot contain it, and what follows up to
    the place; where templates use none, nothing is found.
    """
    near = range(place, max(place - NEAR, 0) - 1, -1)
    begin = next((at for at in near if control.among(ids[at : at + 1])), None)
    if begin is None:
        return set()
    head = list(ids[begin : place + 1])
    found = set[int]()
    for at in range(begin):
        if ids[at] == head[0] and list(ids[at : at + len(head)]) == head:
            found.add(at + place - begin)
    return found - {0}
