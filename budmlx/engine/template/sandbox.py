"""Chat-template sandbox: jinja with limits, and with the additions that templates expect.

What transformers offers to templates is offered here too: `tojson` that leaves text as it
is, `raise_exception`, `strftime_now`, loop controls and the `generation` block.

A template comes with a model and may be faulty or hostile. Jinja's sandbox keeps it from
Python's inner parts; here loops and calls look at a clock, values have a largest size, and
filters and methods that no chat needs but that make much of little are taken away.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cache
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from budmlx.engine.template.filters import filters, percent
from budmlx.engine.template.limits import (
    MAX_BITS,
    METHODS,
    LimitError,
    Ticked,
    check_format,
    check_size,
    concat,
    limited,
    limits,
    listed,
)

TICKED, JOINED, MADE = "budmlx_ticked", "budmlx_joined", "budmlx_made"

OFFERED_METHODS = re.compile(
    r"capitalize|casefold|copy|count|endswith|find|format|format_map|get|index|is[a-z]+|items|join"
    r"|keys|lower|lstrip|partition|removeprefix|removesuffix|replace|rfind|rindex|rpartition"
    r"|rsplit|rstrip|split|splitlines|startswith|strip|swapcase|title|upper|values"
)
"""Of Python's own values; jinja keeps out those that change a list or a dict."""

_JINJAS_OWN = {"_loop_vars", "_block_vars"}  # arguments that it adds to calls

# What a template's own code can raise; the sandbox lets no other kind out.
TEMPLATE_FAULTS = (
    jinja2.TemplateError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)


class RaisedError(jinja2.TemplateError):
    """The error of `raise_exception`: a message that the template's author wrote for the user."""


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
    check_format(form, (), "%")
    return datetime.now().strftime(form)


class _Namespace(Namespace):
    """A namespace that prints without what is in it, which may be itself."""

    def __repr__(self) -> str:
        return "<Namespace>"


def _joined(items: Iterable[Any]) -> str:
    """The result of `a ~ b`."""
    return concat(map(str, items))


def _made(value: Any) -> Any:
    return limits().made(value)


class Environment(ImmutableSandboxedEnvironment):
    """The sandbox with limits."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})
    concat = staticmethod(concat)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute `left operator right` unless the result is too large."""
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            return limits().made(left + right)
        if operator == "%" and isinstance(left, str):
            return limits().made(percent(left, right))
        numbers = [x for x in (left, right) if isinstance(x, int)]
        if any(number.bit_length() > MAX_BITS for number in numbers):
            raise LimitError("the template computes with too large numbers")
        if operator == "**" and (abs(left) > 10**6 or abs(right) > 64):
            raise LimitError("the template computes with too large numbers")
        weight = None
        sequences = [x for x in (left, right) if isinstance(x, str | list | tuple)]
        if operator == "+" and len(sequences) == 2:
            weight = sum(map(limits().weight, sequences))
        elif operator == "*" and sequences and numbers:
            weight = limits().weight(sequences[0]) * max(*numbers, 0)
        check_size(weight or 0)
        return limits().made(super().call_binop(context, operator, left, right), weight)

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function, a macro or a method."""
        limits().tick()
        named = {key: kwargs[key] for key in kwargs.keys() - _JINJAS_OWN}
        # A macro has them as a list and a dict.
        check_size(sum(map(limits().weight, (*args, *named.values()))))
        # The sandbox puts a function around `format`.
        method = getattr(function, "__wrapped__", function)
        text, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
        if isinstance(text, str) and name in METHODS:
            if name == "join":
                args = tuple(map(listed, args))
            METHODS[name](text, *args, **named)
        return limits().made(super().call(context, function, *args, **kwargs))

    def getattr(self, obj: Any, attribute: str) -> Any:
        """An attribute of a value, or an item of that name."""
        if type(obj) is _Namespace and attribute[:1] != "_":
            # Loops that look for a message read them most, and what they hold was checked.
            values = object.__getattribute__(obj, "_Namespace__attrs")
            if attribute in values:
                return values[attribute]
        return super().getattr(obj, attribute)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may use an attribute."""
        if isinstance(obj, str | bytes | int | float | list | tuple | dict) and callable(value):
            return bool(OFFERED_METHODS.fullmatch(attr)) and super().is_safe_attribute(
                obj, attr, value
            )
        return super().is_safe_attribute(obj, attr, value)


def compiled(source: str, seconds: float) -> jinja2.Template:
    """The template, compiled with its limits. Raises TemplateSyntaxError."""
    with limited(seconds):  # filters of constants run already
        return environment().from_string(_bounded(environment().parse(source)))


def _bounded(tree: nodes.Template) -> nodes.Template:
    """The template with limits around its loops and what it makes by syntax; it is changed."""
    for loop in tree.find_all(nodes.For):
        loop.iter = _filtered(TICKED, loop.iter)
    for parent in list(tree.find_all(nodes.Node)):
        for name, value in parent.iter_fields():
            if isinstance(value, nodes.Node):
                setattr(parent, name, _bounded_node(value))
            elif isinstance(value, list):
                value[:] = [_bounded_node(v) if isinstance(v, nodes.Node) else v for v in value]
    return tree


def _bounded_node(node: nodes.Node) -> nodes.Node:
    if isinstance(node, nodes.Concat):
        return _filtered(JOINED, nodes.List(node.nodes, lineno=node.lineno))
    literal = isinstance(node, nodes.List | nodes.Dict)
    literal |= isinstance(node, nodes.Tuple) and node.ctx == "load"
    if literal and next(node.find_all((nodes.Name, nodes.Call)), None) is not None:
        return _filtered(MADE, node)
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
        return _filtered(MADE, node)
    return node


def _filtered(name: str, node: nodes.Node) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def render(template: jinja2.Template, variables: Mapping[str, Any], seconds: float) -> str:
    """The text of a template. Raises one of `TEMPLATE_FAULTS`."""
    with limited(seconds):
        try:
            return concat(template.generate(variables))
        except TEMPLATE_FAULTS as error:
            # The frames are in cycles with the error, and would keep large texts for long.
            raise error.with_traceback(None) from None


@cache
def environment() -> Environment:
    """The environment of all templates."""
    made = Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
    )
    made.filters = {**filters(made.filters), TICKED: Ticked, JOINED: _joined, MADE: _made}
    del made.globals["lipsum"]
    made.globals["namespace"] = _Namespace
    made.globals["raise_exception"] = _raise_exception
    made.globals["strftime_now"] = _strftime_now
    return made
