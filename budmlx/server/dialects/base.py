"""Dialect interface: the parts of a protocol that the server calls.

A dialect's handlers parse a body to `types.Request`s, run them and hand the events to a
`ReplyEncoder` (see `budmlx.server.answer`). Everything else that differs from protocol to
protocol comes from the `Dialect` of a path.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, ClassVar, Protocol, runtime_checkable

from aiohttp import web
from msgspec import Struct
from multidict import CIMultiDictProxy

from budmlx.server.endpoints import Endpoint
from budmlx.server.errors import Failure
from budmlx.types import Completion, Event


class StreamEncoder(Protocol):
    """The bytes of a stream that do not depend on the engine's events.

    They are encoded immediately before they are written, so that an encoder can number what it
    sends. Each is a whole event, framed.
    """

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers of the reply, whole or streamed, beside its content type."""

    @property
    def stream_type(self) -> str:
        """The content type of a stream."""

    def opening(self) -> bytes:
        """The first bytes of the stream, which may be sent before the first event."""

    def keep_alive(self) -> bytes:
        """Bytes that are sent, never before the opening, while the engine is silent."""


@runtime_checkable
class ShowsPrefill(Protocol):
    """A `StreamEncoder` that can say how far a long prompt is, in place of a keep-alive."""

    def prefilled(self, done: int, total: int) -> bytes:
        """The bytes for so many computed tokens of a prompt; as `StreamEncoder.keep_alive`."""


class ReplyEncoder(StreamEncoder, Protocol):
    """The reply to one request: `whole`, or `opening chunks* (end | failure)`."""

    @property
    def id(self) -> str:
        """The id of the reply, for records; empty if the protocol has none."""

    def chunks(self, event: Event) -> bytes:
        """The bytes that one event of the engine adds to the stream; may be empty."""

    def end(self) -> bytes:
        """The bytes after the last event."""

    def failure(self, failure: Failure) -> bytes:
        """The bytes for a failure in a stream that has begun, in place of `end`."""

    def whole(self, done: Completion) -> bytes:
        """The JSON of a reply that is not streamed."""


class Dialect(ABC):
    """A protocol, as the server uses it.

    roots: paths, in every spelling, below which everything uses this dialect. Paths below
    the roots of none use the default dialect.
    introduction: a few sentences at the head of the OpenAPI document.
    error_reply: the body of an error, for the document.
    key_schemes: OpenAPI security schemes of the API key, by name.
    key_help: how to send the key, as a sentence.
    """

    roots: ClassVar[tuple[str, ...]] = ()
    introduction: ClassVar[str]
    error_reply: ClassVar[type[Struct]]
    key_schemes: ClassVar[Mapping[str, Mapping[str, Any]]]
    key_help: ClassVar[str]

    @property
    @abstractmethod
    def endpoints(self) -> Iterable[Endpoint]:
        """The endpoints, in the order of the document."""

    @abstractmethod
    def keys(self, headers: CIMultiDictProxy[str]) -> Iterable[str]:
        """The candidates for the API key of a request."""

    @abstractmethod
    def error(self, request: web.BaseRequest, failure: Failure) -> web.Response:
        """The response to a request that failed before its reply began."""

    def set_up(self, app: web.Application) -> None:  # noqa: B027
        """Keep what the dialect needs in the application, and add what is to happen at its end.

        Called once, when the application has all of its state and no routes.
        """

    def not_found(self, path: str) -> Failure | None:
        """The failure for a path that leads nowhere; None for the common sentence."""
        return None


def bearer_keys(headers: CIMultiDictProxy[str]) -> list[str]:
    """The bearer token, if there is exactly one Authorization header."""
    given = headers.getall("Authorization", [])
    scheme, _, key = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    return [key.strip()] if scheme.lower() == "bearer" else []


class Dialects:
    """The dialects that a server speaks."""

    def __init__(self, default: Dialect, *others: Dialect):
        self._default = default
        self._others = others

    def __iter__(self) -> Iterator[Dialect]:
        return iter((self._default, *self._others))

    def of(self, path: str) -> Dialect:
        """The dialect of a path, whether or not it leads anywhere."""
        for dialect in self._others:
            if any(path == root or path.startswith(f"{root}/") for root in dialect.roots):
                return dialect
        return self._default

    def keys(self, path: str, headers: CIMultiDictProxy[str]) -> Iterable[str]:
        """The candidates for the API key of a request.

        Paths of the default dialect take a key as any dialect sends it: clients of all of them
        request `/v1/models`.
        """
        dialect = self.of(path)
        dialects = self if dialect is self._default else (dialect,)
        return chain.from_iterable(each.keys(headers) for each in dialects)
