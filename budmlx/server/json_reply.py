"""JSON as the body of a reply."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from aiohttp import web
from msgspec import Struct


def as_json(
    value: Struct, headers: Mapping[str, str] | None = None, *, status: int = 200
) -> web.Response:
    """A whole reply."""
    return web.Response(
        status=status,
        body=msgspec.json.encode(value),
        content_type="application/json",
        headers=headers,
    )
