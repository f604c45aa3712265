"""Batch record: what a batch is, on the wire and in the store, and the lines of its files."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from budmlx.clock import CLOCK
from budmlx.engine.store.ids import new_id
from budmlx.errors import InvalidRequestError
from budmlx.server.batches.usage import BatchUsage
from budmlx.server.body import parse_json

MOST_LINES = 50_000
MOST_LINE = 8 * 2**20
"""Bytes of a line."""
MOST_ID = 512
MOST_ERRORS = 50
SECONDS = 86_400
"""How long a batch may take."""
KEPT_SECONDS = 30 * 86_400
"""How long batches that are over are kept, and what they have written."""

Status = Literal[
    "validating",
    "failed",
    "in_progress",
    "finalizing",
    "completed",
    "expired",
    "cancelling",
    "cancelled",
]
OVER = frozenset({"failed", "completed", "expired", "cancelled"})


class LineError(Struct, frozen=True):
    """What is wrong with a line of the input. line: its number, the first one is 1."""

    code: str
    message: str
    param: str | None
    line: int | None


class LineErrors(Struct, frozen=True):
    """What is wrong with the input."""

    data: Sequence[LineError]
    object: Literal["list"] = "list"


class RequestCounts(Struct, frozen=True):
    """Numbers of lines: all, and those with a reply or with an error."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class Batch(Struct, frozen=True, kw_only=True):
    """A batch. Times are seconds since 1970."""

    id: str
    endpoint: str
    input_file_id: str
    completion_window: str
    status: Status
    created_at: int
    expires_at: int
    object: Literal["batch"] = "batch"
    errors: LineErrors | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: RequestCounts = RequestCounts()
    usage: BatchUsage | None = None
    metadata: Mapping[str, str] | None = None
    output_expires_after: int | None = None

    def become(self, status: Status, **changes: Any) -> Batch:
        """The same batch with another status from now on."""
        at = {f"{status}_at": int(time.time())}
        return msgspec.structs.replace(self, status=status, **at, **changes)

    @classmethod
    def read(cls, data: bytes) -> Batch | None:
        """A record that was kept; None if it cannot be read."""
        try:
            return msgspec.json.decode(data, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None

    @property
    def over(self) -> bool:
        """Whether nothing is left to do."""
        return self.status in OVER


class InputLine(Struct, frozen=True):
    """A request in a file. number: the first line has 0."""

    number: int
    custom_id: str
    body: dict[str, Any]
    size: int


def new_batch(endpoint: str, input_file_id: str, window: str, tag: str, **more: Any) -> Batch:
    """A batch that begins now. tag: see `new_id`."""
    now = int(CLOCK.now())
    return Batch(
        id=new_id("batch_", tag),
        endpoint=endpoint,
        input_file_id=input_file_id,
        completion_window=window,
        status="validating",
        created_at=now,
        expires_at=now + SECONDS,
        **more,
    )


def read_lines(path: Path, endpoint: str) -> Iterator[InputLine | LineError]:
    """The lines of a file, or what is wrong with each; empty ones are none.

    Raises OSError.
    """
    seen: dict[str, int] = {}
    with path.open("rb") as file:
        number = -1
        while raw := file.readline(MOST_LINE + 1):
            number += 1
            if len(raw) > MOST_LINE:
                yield LineError(
                    "line_too_long", f"A line may have {MOST_LINE} bytes.", None, number + 1
                )
                return
            if not raw.strip():
                continue
            if len(seen) == MOST_LINES:
                message = f"A batch may have {MOST_LINES} requests."
                yield LineError("too_many_requests", message, None, number + 1)
                return
            line = _read(number, raw, endpoint)
            if isinstance(line, InputLine):
                first = seen.setdefault(line.custom_id, number)
                if first != number:
                    message = f"Line {first + 1} has this `custom_id`, too."
                    line = LineError("duplicate_custom_id", message, "custom_id", number + 1)
            yield line


def _read(number: int, raw: bytes, endpoint: str) -> InputLine | LineError:
    try:
        line = parse_json(raw)
    except InvalidRequestError as error:
        return LineError("invalid_json_line", error.message, error.param, number + 1)
    custom_id, body = line.get("custom_id"), line.get("body")
    problem: tuple[str, str, str] | None = None
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MOST_ID:
        message = f"`custom_id` must be a text of 1 to {MOST_ID} characters."
        problem = ("invalid_custom_id", message, "custom_id")
    elif line.get("method") != "POST":
        problem = ("invalid_method", "`method` must be POST.", "method")
    elif line.get("url") != endpoint:
        problem = ("mismatched_url", f"`url` must be the batch's endpoint, {endpoint}.", "url")
    elif not isinstance(body, dict):
        problem = ("invalid_body", "`body` must be an object.", "body")
    elif unknown := line.keys() - {"custom_id", "method", "url", "body"}:
        name = min(unknown)[:64]
        problem = ("unknown_field", f"`{name}` is no field of a line.", name)
    if problem is not None:
        code, message, param = problem
        return LineError(code, message, param, number + 1)
    assert isinstance(custom_id, str) and isinstance(body, dict)
    return InputLine(number, custom_id, body, len(raw))


def check_lines(path: Path, endpoint: str) -> tuple[int, LineErrors | None]:
    """How many requests a file has, and what is wrong with them if anything is.

    Raises OSError.
    """
    count, errors = 0, list[LineError]()
    for line in read_lines(path, endpoint):
        if isinstance(line, InputLine):
            count += 1
        elif len(errors) < MOST_ERRORS:
            errors.append(line)
    if not count and not errors:
        errors.append(LineError("empty_file", "The file has no requests.", "input_file_id", None))
    return count, LineErrors(errors) if errors else None


def output_line(
    name: str, line: InputLine, status: int, body: bytes, warnings: Sequence[str] = ()
) -> bytes:
    """The line of an output file: the reply to a line of the input.

    name: of the batch. warnings: those that the body has no place for.
    """
    request_id = f"{name}-{line.number}"
    response = {"status_code": status, "request_id": request_id, "body": msgspec.Raw(body)}
    if warnings:
        response["warnings"] = warnings
    return _output(name, line, response, None)


def error_line(name: str, line: InputLine, code: str, message: str) -> bytes:
    """The line of an error file for a line of the input that has no reply."""
    return _output(name, line, None, {"code": code, "message": message})


def _output(name: str, line: InputLine, response: Any, error: Any) -> bytes:
    entry = {
        "id": f"batch_req_{name.removeprefix('batch_')}_{line.number}",
        "custom_id": line.custom_id,
        "response": response,
        "error": error,
    }
    return msgspec.json.encode(entry)


def one_line(body: bytes) -> bytes:
    """JSON without line breaks."""
    return json.dumps(json.loads(body)).encode() if b"\n" in body else body
