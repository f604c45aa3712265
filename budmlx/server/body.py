"""Request bodies: read within limits, then parsed as strict JSON.

The standard library's parser does the reading. What it would let through (NaN, duplicate
keys, lone surrogates, numbers beyond a double) is kept in the tree as a `_Flaw`, and one
walk over the tree names the path of the first one.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from aiohttp import web

from budmlx.errors import InvalidRequestError
from budmlx.server.errors import HttpError, param_path
from budmlx.server.limits import Limits
from budmlx.server.state import CONFIG, LIMITS

MAX_DEPTH = 64
MAX_DIGITS = 64
ENCODINGS = frozenset({"identity", "gzip", "deflate"})
CHARSETS = frozenset({"utf-8", "utf8", "us-ascii"})
OFF_LOOP_BYTES = 2**14
"""Work on bodies larger than this is done in a thread, so that other streams go on."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


async def parsed(
    request: web.Request,
    parse: Callable[[dict[str, Any]], Result],
    *,
    untyped: bool = False,
) -> tuple[Result, int]:
    """The body as `parse` understands it, and its length in bytes.

    untyped: whatever its media type is. Pages of others are kept out by their origin alone then.
    Raises HttpError and InvalidRequestError, see `read_body` and `parse_json`.
    """
    most, limits = request.app[CONFIG].max_body, request.app[LIMITS]
    raw = await read_body(request, most, limits, untyped=untyped)
    return await off_loop(len(raw), lambda: parse(parse_json(raw))), len(raw)


async def off_loop(
    size: int,
    work: Callable[Arguments, Result],
    *args: Arguments.args,
    **kwargs: Arguments.kwargs,
) -> Result:
    """Do work for a body of `size` bytes, in a thread if it is large."""
    if size > OFF_LOOP_BYTES:
        return await asyncio.to_thread(work, *args, **kwargs)
    return work(*args, **kwargs)


async def read_body(
    request: web.Request, max_bytes: int, limits: Limits, *, untyped: bool = False
) -> bytes:
    """Read a JSON body of at most `max_bytes` bytes, decompressed if need be.

    limits: how long it may take. untyped: its media type may be any.
    Raises HttpError: 415 for another media type, charset or encoding, 413 when it is too
    large, 408 when it arrives too slowly.
    """
    _check_media_type(request, untyped=untyped)
    if (request.content_length or 0) > max_bytes:
        raise _too_large(max_bytes)
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_total_seconds):
            while True:
                async with asyncio.timeout(limits.body_idle_seconds):
                    chunk = await request.content.readany()
                if not chunk:
                    return bytes(body)
                body += chunk
                if len(body) > max_bytes:
                    raise _too_large(max_bytes)
    except TimeoutError:
        raise HttpError(408, "The request body arrived too slowly.", code="body_timeout") from None


def _too_large(limit: int) -> HttpError:
    return HttpError(413, f"The request body is larger than {limit} bytes.", code="body_too_large")


def _check_media_type(request: web.Request, *, untyped: bool) -> None:
    if request.content_type != "application/json" and not untyped:
        raise HttpError(
            415, "Send the body as 'Content-Type: application/json'.", code="unsupported_media_type"
        )
    if (request.charset or "utf-8").lower() not in CHARSETS:
        raise HttpError(415, "The body must be UTF-8.", code="unsupported_charset")
    if request.headers.get("Content-Encoding", "identity").strip().lower() not in ENCODINGS:
        raise HttpError(
            415,
            "The body may be compressed with gzip or deflate only.",
            code="unsupported_encoding",
        )


@dataclass(frozen=True, slots=True)
class _Flaw:
    """Stands in the tree for a value that must be refused."""

    message: str
    key: str | None = None


def parse_json(raw: bytes) -> dict[str, Any]:
    """Parse a JSON object, in time linear in its length.

    Raises InvalidRequestError, with `param` where the place is known, for anything that is
    not strict JSON in UTF-8, for lone surrogates, duplicate keys, numbers that a double
    cannot hold, and nesting deeper than 64.
    """
    try:
        tree = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=lambda name: _Flaw(f"{name} is not JSON"),
            parse_float=_float,
            parse_int=_int,
        )
    except UnicodeDecodeError:
        raise InvalidRequestError("The body is not UTF-8.", code="invalid_json") from None
    except json.JSONDecodeError as exc:
        message = f"The body is not JSON: {exc.msg} at character {exc.pos}."
        raise InvalidRequestError(message, code="invalid_json") from None
    except RecursionError:
        raise _too_deep() from None
    _check(tree, [])
    if not isinstance(tree, dict):
        raise InvalidRequestError("The body must be a JSON object.", code="invalid_json")
    return tree


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | _Flaw:
    result = dict(pairs)
    if len(result) == len(pairs):
        return result
    counts = Counter(key for key, _ in pairs)
    return _Flaw("A key occurs twice", counts.most_common(1)[0][0])


def _float(text: str) -> float | _Flaw:
    value = float(text)
    return value if math.isfinite(value) else _Flaw("A number is out of range")


def _int(text: str) -> int | _Flaw:
    return int(text) if len(text) <= MAX_DIGITS else _Flaw("A number is out of range")


def _check(node: Any, path: list[str | int]) -> None:
    """Refuse flaws, depth first; MAX_DEPTH bounds the recursion. `path` is scratch space."""
    if isinstance(node, str):
        if not _encodable(node):
            raise _flawed("A string holds half of a surrogate pair", path)
    elif isinstance(node, _Flaw):
        raise _flawed(node.message, path if node.key is None else [*path, node.key])
    elif isinstance(node, dict | list):
        if len(path) == MAX_DEPTH:
            raise _too_deep()
        for step, value in node.items() if isinstance(node, dict) else enumerate(node):
            path.append(step)
            if isinstance(step, str) and not _encodable(step):
                raise _flawed("A key holds half of a surrogate pair", path)
            _check(value, path)
            path.pop()


def _flawed(message: str, path: list[str | int]) -> InvalidRequestError:
    param = param_path(path)
    safe = param and param.encode("utf-8", "replace").decode("utf-8")
    return InvalidRequestError(f"{message}.", param=safe, code="invalid_json")


def _too_deep() -> InvalidRequestError:
    return InvalidRequestError(
        f"The body is nested deeper than {MAX_DEPTH} levels.", code="body_too_deep"
    )


def _encodable(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
