"""Pages of lists: what the query string says of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from aiohttp import web

from budmlx.errors import InvalidRequestError


class Listed(Protocol):
    """An entry of a list."""

    @property
    def id(self) -> str:
        """By which `after` names it."""


Entry = TypeVar("Entry", bound=Listed)

AFTER = {"type": "string", "description": "Only those after the entry of this id."}


def limited(most: int, usual: int) -> dict[str, Any]:
    """The field `limit` of a query string."""
    sentence = f"At most so many, up to {most}; {usual} if absent."
    return {"type": "integer", "minimum": 1, "maximum": most, "description": sentence}


def page(
    request: web.Request,
    entries: Sequence[Entry],
    most: int,
    usual: int,
    *,
    after: str = "after",
    before: str = "",
) -> tuple[Sequence[Entry], bool]:
    """The entries that were asked for, and whether there are more in that direction.

    after, before: the fields of the query string that name an entry.
    Raises InvalidRequestError naming the field.
    """
    text = request.query.get("limit", str(usual))
    if not (text.isascii() and text.isdigit() and len(text) < 9 and 1 <= int(text) <= most):
        raise InvalidRequestError(f"limit must be from 1 to {most}.", param="limit")
    count = int(text)
    if (id := request.query.get(after)) is not None:
        entries = entries[_place(entries, id, after) + 1 :]
    elif before and (id := request.query.get(before)) is not None:
        entries = entries[: _place(entries, id, before)]
        return entries[-count:], len(entries) > count
    return entries[:count], len(entries) > count


def _place(entries: Sequence[Listed], id: str, param: str) -> int:
    place = next((number for number, entry in enumerate(entries) if entry.id == id), None)
    if place is None:
        raise InvalidRequestError(f"{param} is not the id of an entry.", param=param)
    return place


def ends(found: Sequence[Listed]) -> tuple[str | None, str | None]:
    """The ids of the first and the last entry."""
    return (found[0].id, found[-1].id) if found else (None, None)
