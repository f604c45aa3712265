"""The log: one line for each message, as text or as JSON, with the id of its request.

Standard library only; every ring may import it.
"""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Mapping
from contextlib import nullcontext
from contextvars import ContextVar
from typing import Any, Literal, TextIO, get_args

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["text", "json"]
LEVELS: tuple[Level, ...] = get_args(Level)

REQUEST: ContextVar[str] = ContextVar("request", default="")
"""The id of the request that is worked on; empty where it is none, or several."""
FIELDS = "fields"
"""The attribute of a log record with what a line of JSON has beside its message."""
MOST_CHARACTERS = 10_000
"""Of a message; tracebacks come on top."""
MOST_LINES = 500
"""That a `Tail` keeps."""


def set_up(level: Level, form: Format, stream: TextIO | None = None) -> None:
    """Log to a stream from now on, by default the standard error stream."""
    handlers = [logging.StreamHandler(stream), Tail()]
    for handler in handlers:
        handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.basicConfig(level=level.upper(), handlers=handlers, force=True)


class Tail(logging.Handler):
    """Keeps the last lines of the log, for those who look at the server from afar."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[tuple[int, str]] = deque(maxlen=MOST_LINES)
        self._count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line; the lock of the handler is held."""
        self._count += 1
        self._lines.append((self._count, self.format(record)))

    def after(self, number: int) -> list[tuple[int, str]]:
        """The lines after that number that are still here, each with its own."""
        with self.lock or nullcontext():
            return [each for each in self._lines if each[0] > number]


def tail() -> Tail | None:
    """The last lines of the log; None if `set_up` was not called."""
    return next((each for each in logging.getLogger().handlers if isinstance(each, Tail)), None)


def set_level(level: Level) -> None:
    """Change the least severe messages that are logged."""
    logging.getLogger().setLevel(level.upper())


def chosen() -> Level | None:
    """The least severe messages that are logged; None if `set_up` was not called."""
    root = logging.getLogger()
    ours = any(isinstance(each.formatter, TextLines | JsonLines) for each in root.handlers)
    name = logging.getLevelName(root.level).lower()
    return next((level for level in LEVELS if level == name), None) if ours else None


def one_line(text: str) -> str:
    """A text without line breaks and what else a terminal would act on."""
    return "".join(each if each.isprintable() else _escaped(each) for each in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def fields(**values: Any) -> Mapping[str, Any]:
    """What `extra` of a call of a logger must be, for a line of JSON to have these fields."""
    return {FIELDS: values}


class TextLines(logging.Formatter):
    """Lines for people."""

    def format(self, record: logging.LogRecord) -> str:
        """The time, the severity, where it comes from, the message, and the request."""
        message = one_line(record.getMessage()[:MOST_CHARACTERS])
        request = REQUEST.get()
        if request and request not in message:
            message = f"{message} [{request}]"
        line = f"{self.formatTime(record)} {record.levelname} {record.name}: {message}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonLines(logging.Formatter):
    """Lines for programs: objects with `time`, `level`, `logger`, `message` and perhaps more."""

    def format(self, record: logging.LogRecord) -> str:
        """The object."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{moment}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:MOST_CHARACTERS],
        }
        if request := REQUEST.get():
            line["request_id"] = request
        line |= getattr(record, FIELDS, {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
