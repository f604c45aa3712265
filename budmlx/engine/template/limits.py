"""Template limits: the time that rendering may take, and the size of what it makes.

Time is the CPU time of the thread that renders, so that requests do not take it from each other.

Python cannot be stopped inside of `str.replace` and its like, so what they would make is
estimated from their arguments before they run. Two rules carry the rest: no value is heavier
than `MAX_CHARACTERS`, so that printing or comparing it is cheap, however often it holds the
same text; and all values of a rendering together are no larger than `MAX_BYTES`.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import chain
from typing import Any, Final, TypeVar

import jinja2

SECONDS = 1.5
"""How long a template may take for a short conversation, by default."""
PER_MESSAGE = 0.005
"""Seconds more for each message: some templates look at all others for each."""
PER_CHARACTER = 2e-6
"""Seconds more for each character of the messages and tools."""
MAX_CHARACTERS = 2**24
"""The longest text that a template may make."""
MAX_ITEMS = 2**20
"""The longest list, for each item takes much more than a character."""
MAX_BYTES = 2**28
"""The size of all that a template may make, one after the other."""
MAX_BITS = 2048
"""Of numbers to compute with."""
MAX_NEEDLE = 256
"""The longest text to strip or to search for from the end, whose time is a product."""
MAX_DIGITS = 3
"""Of widths and precisions."""

_ITEM: Final = MAX_CHARACTERS // MAX_ITEMS
_VIEWS: tuple[type, ...] = (type({}.keys()), type({}.values()), type({}.items()))
_CONTAINERS = (list, tuple, Mapping, *_VIEWS)
_PLAIN = (bool, int, float, type(None))  # the common ones, faster than a check for Mapping
_LINE_ENDS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
_WIDE = {
    "%": re.compile(r"%(?:\([^)]*\))?[-+ #0-9.]*(?:\d{4}|\*)"),
    "{": re.compile(r"\{[^{}]*(?:\d{4}|\{)"),
}
"""Widths that are long or come from elsewhere, by what begins a field."""

T = TypeVar("T")


class LimitError(jinja2.TemplateError):
    """A template takes too long or makes too much text."""


class Limits:
    """The time and bytes that one rendering has left, on the thread that makes this object.

    seconds: how long it may take, in the thread's own CPU time.
    """

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._deadline = time.thread_time() + seconds
        # Asking for CPU time is slow. A thread has no more of it than time goes by.
        self._look = time.monotonic() + seconds
        self._left = MAX_BYTES
        # By identity; the values are kept so that no other one gets the same.
        self._weights: dict[int, tuple[Any, int]] = {}

    def tick(self, size: int = 0) -> None:
        """Look at the clock, and count bytes that were made."""
        self._left -= size
        if self._left < 0:
            raise LimitError(f"the template makes more than {MAX_BYTES} bytes")
        if time.monotonic() > self._look:
            self._check_time()

    def _check_time(self) -> None:
        left = self._deadline - time.thread_time()
        if left <= 0:
            raise LimitError(f"the template takes longer than {self._seconds:.3g} s")
        self._look = time.monotonic() + left

    def weight(self, value: Any) -> int:
        """The approximate number of characters of a value when it is printed."""
        if isinstance(value, str):
            return len(value)
        if type(value) in _PLAIN or not isinstance(value, _CONTAINERS):
            return 1
        known = self._weights.get(id(value))
        if known is None:
            items: Any = value
            if isinstance(value, Mapping):
                items = chain.from_iterable(value.items())
            weight = sum(self.weight(item) + _ITEM for item in items)
            known = self._weights[id(value)] = (value, weight)
        return known[1]

    def made(self, value: T, weight: int | None = None) -> T:
        """The value, checked against the limits. weight: if it is known. Raises LimitError."""
        if weight is not None and isinstance(value, _CONTAINERS):
            self._weights[id(value)] = (value, weight)
        check_size(self.weight(value))
        self.tick(sys.getsizeof(value))
        return value


_limits: ContextVar[Limits] = ContextVar("limits")


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """A context manager: what renders within it has new limits."""
    before = _limits.set(Limits(seconds))
    try:
        yield
    finally:
        _limits.reset(before)


def limits() -> Limits:
    """The limits of the current rendering."""
    return _limits.get()


def concat(pieces: Iterable[str]) -> str:
    """The pieces as one text; there may be any number of them."""
    texts, size = [], 0
    for piece in pieces:
        size += len(piece)
        check_size(size)
        limits().tick(len(piece))
        texts.append(piece)
    return "".join(texts)


def listed(items: Any) -> list[Any] | tuple[Any, ...]:
    """The items, taken out of an iterator if they are in one."""
    return limits().made(items if isinstance(items, list | tuple) else list(Ticked(items)))


class Ticked:
    """The iterable of a loop, which checks the clock for each item."""

    def __init__(self, items: Iterable[Any]):
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        tick = limits().tick
        for item in self._items:
            tick()
            yield item

    def __len__(self) -> int:
        return len(self._items)  # type: ignore[arg-type]  # as of any iterable: it may have none


def check_size(characters: int) -> None:
    """Refuse to make a longer text. Raises LimitError."""
    if characters > MAX_CHARACTERS:
        raise LimitError(f"the template makes more than {MAX_CHARACTERS} characters")


def check_items(count: int) -> None:
    """Refuse to make a longer list. Raises LimitError."""
    if count > MAX_ITEMS:
        raise LimitError(f"the template makes a list of more than {MAX_ITEMS} items")


def check_format(form: str, values: Any, sign: str) -> None:
    """Refuse widths of many digits, and more text than fits. sign: what begins a field."""
    if _WIDE[sign].search(form.replace(2 * sign, "")):
        raise LimitError(f"the template formats with more than {MAX_DIGITS} digits of width")
    check_size(len(form) + form.count(sign) * (limits().weight(values) + 10**MAX_DIGITS))


def check_join(separator: str, items: list[Any] | tuple[Any, ...]) -> None:
    """Refuse to join to a text that is too long."""
    check_size(limits().weight(items) + len(items) * len(separator))


def check_replace(text: Any, old: Any, new: Any, count: int | None = None) -> None:
    """Refuse to replace by too much."""
    text, new = str(text), str(new)
    check_size(len(text) + text.count(str(old)) * len(new))


def _split(text: str, sep: str | None = None, maxsplit: int = -1) -> None:
    count = len(text) // 2 if sep is None else text.count(sep)
    check_items(count if maxsplit < 0 else min(count, maxsplit))


def _rsplit(text: str, sep: str | None = None, maxsplit: int = -1) -> None:
    check_needle(text, sep)
    _split(text, sep, maxsplit)


def _splitlines(text: str, keepends: bool = False) -> None:
    check_items(line_count(text))


def line_count(text: str) -> int:
    """An upper bound for the number of lines of a text."""
    return 1 + sum(map(text.count, _LINE_ENDS))


def check_needle(text: Any, chars: str | None = None, *places: int) -> None:
    """Refuse to strip, or to search for from the end, what is long."""
    if chars is not None and len(chars) > MAX_NEEDLE:
        raise LimitError(f"the template searches for more than {MAX_NEEDLE} characters")


def _format(text: str, /, *values: Any, **named: Any) -> None:
    check_format(text, [*values, named], "{")


METHODS: dict[str, Callable[..., None]] = {
    "format": _format,
    "format_map": _format,
    "join": check_join,
    "lstrip": check_needle,
    "replace": check_replace,
    "rfind": check_needle,
    "rindex": check_needle,
    "rpartition": check_needle,
    "rsplit": _rsplit,
    "rstrip": check_needle,
    "split": _split,
    "splitlines": _splitlines,
    "strip": check_needle,
}
"""Methods of texts that can make much of little, or take long, and what refuses that."""
