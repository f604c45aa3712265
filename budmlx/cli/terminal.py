"""Text between a model and a terminal."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any, TextIO

from rich.console import Console

from budmlx.errors import InvalidRequestError
from budmlx.types import Event, ReasoningDelta, TextDelta

# A model must not move the cursor, rename the window or write to the clipboard.
_CONTROLS = dict.fromkeys((*range(32), *range(127, 160)), "\N{REPLACEMENT CHARACTER}")
del _CONTROLS[ord("\n")], _CONTROLS[ord("\t")]


def show(text: str) -> None:
    """Write model text to stdout at once; on a terminal without its control characters."""
    sys.stdout.write(text.translate(_CONTROLS) if sys.stdout.isatty() else text)
    sys.stdout.flush()


class _Lossy:
    """A stream that drops what it cannot write: its disk is full, or its reader gone."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def go_on_without_streams() -> None:
    """Do not fail from now on where the standard streams take nothing."""
    for name in ("stdout", "stderr"):
        if (stream := getattr(sys, name)) is not None:
            setattr(sys, name, _Lossy(stream))


def leave_closed_streams() -> None:
    """Send to nowhere what a terminal that closed has not taken, which would change the status
    with which Python exits."""
    for each in (sys.stdout, sys.stderr):
        stream = getattr(each, "stream", each)
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())


def plain_console() -> Console:
    """A console that takes text as it is, wide enough for tables where it is no terminal."""
    width = None if Console().is_terminal else 200
    return Console(width=width, markup=False, highlight=False)


def printable(text: str) -> str:
    """Text of others, such as the name of a directory, without control characters."""
    return text.translate(_CONTROLS)


def checked(text: str) -> str:
    """`text`, if it was valid UTF-8. Raises InvalidRequestError if not."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError("The prompt is not UTF-8 text.") from error
    return text


class ReplyPrinter:
    """Prints a reply while it is generated. Reasoning is dim, and shown on a terminal only."""

    def __init__(self) -> None:
        self._thinking = False
        self._terminal = sys.stderr.isatty()

    def show_event(self, event: Event) -> str:
        """Print an event; returns what it adds to the reply's text."""
        if isinstance(event, ReasoningDelta) and self._terminal:
            self._thinking = True
            text = event.text.translate(_CONTROLS)
            print(f"\x1b[2m{text}\x1b[0m", end="", file=sys.stderr, flush=True)
        if not isinstance(event, TextDelta):
            return ""
        if self._thinking:
            self._thinking = False
            print(file=sys.stderr, flush=True)
        show(event.text)
        return event.text
