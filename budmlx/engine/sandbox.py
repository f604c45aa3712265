"""Jinja in a sandbox with limits, and with the additions that chat templates expect.

What transformers offers to templates is offered here too: `tojson` that leaves text as it
is, `raise_exception`, `strftime_now`, loop controls and the `generation` block.

A template comes with a model and may be faulty or hostile. Jinja's sandbox keeps it from
Python's inner parts; here loops and calls look at a clock, and texts have a largest size.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from datetime import datetime
from functools import cache
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

SECONDS = 1.5
"""How long a template may take."""
MAX_CHARACTERS = 2**24
"""The longest text that a template may make."""
TICKED, JOINED = "budmlx_ticked", "budmlx_joined"

_deadline: ContextVar[float] = ContextVar("deadline")

# What a template's own code can raise; the sandbox lets no other kind out.
TEMPLATE_FAULTS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


class LimitError(jinja2.TemplateError):
    """A template takes too long or makes too much text."""


class RaisedError(jinja2.TemplateError):
    """What `raise_exception` raises: a message that its author wrote for the user."""


class _GenerationBlock(Extension):
    """`{% generation %}` marks what the model wrote; it renders as its content."""

    tags = {"generation"}  # noqa: RUF012  jinja's own declaration

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _raise_exception(message: str) -> NoReturn:
    raise RaisedError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _tick() -> None:
    if time.monotonic() > _deadline.get(float("inf")):
        raise LimitError(f"the template takes longer than {SECONDS} s")


def _sized(value: Any) -> Any:
    if isinstance(value, str | list | tuple) and len(value) > MAX_CHARACTERS:
        raise LimitError(f"the template makes more than {MAX_CHARACTERS} characters")
    return value


class _Ticked:
    """What a loop goes through, with a look at the clock for each item."""

    def __init__(self, items: Iterable[Any]):
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            _tick()
            yield item

    def __len__(self) -> int:
        return len(self._items)  # type: ignore[arg-type]  # as of any iterable: it may have none


def _joined(items: Iterable[Any]) -> str:
    """What `a ~ b` makes."""
    texts = [str(item) for item in items]
    if sum(map(len, texts)) > MAX_CHARACTERS:
        raise LimitError(f"the template makes more than {MAX_CHARACTERS} characters")
    return "".join(texts)


class Environment(ImmutableSandboxedEnvironment):
    """The sandbox with limits."""

    intercepted_binops = frozenset({"+", "*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute `left operator right` unless the result is too large."""
        if operator == "*":
            sizes = [len(x) if isinstance(x, str | list | tuple) else 0 for x in (left, right)]
            counts = [x for x in (left, right) if isinstance(x, int)]
            if any(sizes) and counts and max(sizes) * max(counts) > MAX_CHARACTERS:
                raise LimitError(f"the template makes more than {MAX_CHARACTERS} characters")
        if operator == "**" and (abs(left) > 10**6 or abs(right) > 64):
            raise LimitError("the template computes with too large numbers")
        return _sized(super().call_binop(context, operator, left, right))

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function, a macro or a method."""
        _tick()
        return _sized(super().call(context, function, *args, **kwargs))


def bounded(tree: nodes.Template) -> nodes.Template:
    """The template with its loops and its concatenations within limits; it is changed."""
    for loop in tree.find_all(nodes.For):
        loop.iter = nodes.Filter(loop.iter, TICKED, [], [], None, None)
    for parent in list(tree.find_all(nodes.Node)):
        for name, value in parent.iter_fields():
            if isinstance(value, nodes.Concat):
                setattr(parent, name, _bounded_concat(value))
            elif isinstance(value, list):
                value[:] = [_bounded_concat(v) if isinstance(v, nodes.Concat) else v for v in value]
    return tree


def _bounded_concat(concat: nodes.Concat) -> nodes.Filter:
    items = nodes.List(concat.nodes, lineno=concat.lineno)
    return nodes.Filter(items, JOINED, [], [], None, None, lineno=concat.lineno)


def render(template: jinja2.Template, variables: Mapping[str, Any]) -> str:
    """The text of a template. Raises one of `TEMPLATE_FAULTS`."""
    before = _deadline.set(time.monotonic() + SECONDS)
    try:
        pieces, size = [], 0
        for piece in template.generate(variables):
            size += len(piece)
            if size > MAX_CHARACTERS:
                raise LimitError(f"the template makes more than {MAX_CHARACTERS} characters")
            pieces.append(piece)
        return "".join(pieces)
    finally:
        _deadline.reset(before)


@cache
def environment() -> Environment:
    """The environment of all templates."""
    made = Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
    )
    made.filters["tojson"] = _tojson
    made.filters[TICKED] = _Ticked
    made.filters[JOINED] = _joined
    made.globals["raise_exception"] = _raise_exception
    made.globals["strftime_now"] = _strftime_now
    return made
