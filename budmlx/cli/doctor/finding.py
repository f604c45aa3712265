"""A finding of `budmlx doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["good", "note", "fault"]
"""`note`: something works less well than it could, or could not be looked at. `fault`: something
does not work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, and what was found. advice: what to do, a sentence; empty if nothing."""

    subject: str
    state: State
    text: str
    advice: str = ""


def good(subject: str, text: str) -> Finding:
    """A finding that needs nothing."""
    return Finding(subject, "good", text)
