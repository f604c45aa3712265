"""Filters of chat templates: jinja's within limits, without some of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, NoReturn

from jinja2.exceptions import SecurityError
from jinja2.filters import sync_do_join
from jinja2.nodes import EvalContext
from jinja2.utils import pass_eval_context

from budmlx.engine.template.limits import (
    LimitError,
    check_format,
    check_items,
    check_join,
    check_needle,
    check_replace,
    check_size,
    concat,
    limits,
    line_count,
    listed,
)

REFUSED_FILTERS = frozenset(
    {
        "batch",
        "center",
        "filesizeformat",
        "forceescape",
        "pprint",
        "slice",
        "striptags",
        "urlencode",
        "urlize",
        "wordcount",
        "wordwrap",
        "xmlattr",
    }
)
"""Filters that no chat needs and that make much of little, or take long."""

_OVER_ITEMS = re.compile(
    "groupby|join|list|map|max|min|reject|rejectattr|select|selectattr|sort|sum|unique"
)
"""Filters that take a text for the list of its characters."""


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    check_size(limits().weight(value))
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    if indent is None and separators is None:
        return encoder.encode(value)
    return concat(encoder.iterencode(value))


@pass_eval_context
def _join(context: EvalContext, value: Any, d: str = "", attribute: Any = None) -> str:
    items = listed(value)
    check_join(str(d), items)
    return sync_do_join(context, items, d, attribute)


def _check_indent(
    text: Any, width: int | str = 4, first: bool = False, blank: bool = False
) -> None:
    """Refuse to indent too many lines, or by too much."""
    text = str(text)
    lines = line_count(text)
    check_items(lines)
    check_size(len(text) + lines * (len(width) if isinstance(width, str) else width))


def _check_round(value: Any, precision: int = 0, method: str = "common") -> None:
    """Refuse to compute with 10 to the power of a large precision."""
    if abs(precision) > 100:
        raise LimitError("the template rounds with too large a precision")


def _check_sum(items: Any, attribute: Any = None, start: Any = 0) -> None:
    """Refuse to add up anything but numbers: each step would copy the sum so far."""
    if not isinstance(start, int | float):
        raise LimitError("the template adds up what are no numbers")


def _check_title(text: Any) -> None:
    """Refuse long texts, which are cut into words."""
    check_items(len(str(text)))


_CHECKS: dict[str, Callable[..., None]] = {
    "indent": _check_indent,
    "replace": check_replace,
    "round": _check_round,
    "sum": _check_sum,
    "title": _check_title,
    "trim": check_needle,
}
"""Filters that can make much of little, or take long, and what refuses that."""


def _within_limits(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter whose argument and result are within limits."""
    place = int(hasattr(function, "jinja_pass_arg"))  # the context comes before the value
    check = _CHECKS.get(name)

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        if _OVER_ITEMS.fullmatch(name) and isinstance(args[place], str):
            check_items(len(args[place]))
        if check is not None:
            check(*args[place:], **kwargs)
        return limits().made(function(*args, **kwargs))

    return run


def _refused(name: str) -> Callable[..., NoReturn]:
    def run(*args: Any, **kwargs: Any) -> NoReturn:
        raise SecurityError(f"the filter {name} is not offered to chat templates")

    return run


def _format(form: Any, *values: Any, **named: Any) -> str:
    """The filter `format`."""
    return str(percent(str(form), named or values))


def percent(form: str, values: Any) -> Any:
    """`form % values`. Raises LimitError if it would be large."""
    check_format(form, values, "%")
    return form % values


def filters(offered: Mapping[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """The filters by name, made of jinja's."""
    own: dict[str, Callable[..., Any]] = {
        **offered,
        "tojson": _tojson,
        "join": _join,
        "format": _format,
    }
    within = {name: _within_limits(name, run) for name, run in own.items()}
    return within | {name: _refused(name) for name in REFUSED_FILTERS}
