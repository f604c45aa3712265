"""Values and interfaces of the hooks. Nothing here loads MLX.

Samplers and the like, which run in the core, are registered as data: a name, a pydantic model
of the options, and the place of the factory. Only the process that owns MLX imports the factory.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from pydantic import BaseModel

from budmlx.types import FinishReason, Message, MissReason, Timing, Usage

if TYPE_CHECKING:
    from aiohttp import web

Array = Any
"""An `mx.array`; only the core knows the type."""

State = Any
"""A tree (dict, list, tuple) of arrays that have one entry per row on their first axis.

The tree, the dtype of each array and its shape besides the first axis are the same for all rows,
whatever their options, and at every step.
"""

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def check_target(name: str, target: str) -> None:
    """Raise ValueError unless both are well formed."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name: use lower case letters, digits, '_', '.', '-'")
    if not _TARGET.fullmatch(target):
        raise ValueError(f"{target!r} is not of the form package.module:attribute")


# In the core


@dataclass(frozen=True, slots=True)
class _CoreSpec:
    name: str
    options: type[BaseModel]
    core: str

    def __post_init__(self) -> None:
        check_target(self.name, self.core)
        if not (isinstance(self.options, type) and issubclass(self.options, BaseModel)):
            raise TypeError(f"the options of {self.name} must be a pydantic model class")


class SamplerSpec(_CoreSpec):
    """A sampler that requests choose by name.

    options: model of what a request may set; its errors become 400s that name the field. Tokens
    are options of the types `TokenId` and `TokenIds` of `budmlx.plugins.options`.
    core: `package.module:factory`; called without arguments it returns a `Sampler`.
    """

    __slots__ = ()


class LogitsProcessorSpec(_CoreSpec):
    """A logits processor that requests choose by name; see `SamplerSpec`.

    core: its factory returns a `LogitsProcessor`.
    """

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class RowContext:
    """The tokens of the rows of a step.

    history: token ids of each row, prompt first, without the one in `last`.
    last: the ids [rows] that were fed to this step.
    """

    history: Sequence[Sequence[int]]
    last: Array


class Sampler(Protocol):
    """Draws tokens for all rows that chose it, in one call.

    The engine keeps the state: it takes, concatenates and copies rows as they come and go,
    so nothing about a row may be kept elsewhere. A row whose state is another tree, or has another
    shape or dtype, than those of the rows beside it fails with `plugin_error`. When the engine goes
    on after a crash, a row begins with `init` again; `context.history` has what it generated.
    """

    def init(self, options: Mapping[str, Any], vocab_size: int) -> State:
        """The state of one new row, with a first axis of 1. options: validated, as JSON.

        vocab_size: the last axis of the logits; a method without this argument gets no such
        number.
        """

    def sample(
        self, logits: Array, state: State, context: RowContext, keys: Array
    ) -> tuple[Array, State]:
        """Token ids, integers [rows], for logits [rows, vocab], and the new state.

        keys: a random key for each row, uint32 [rows, 2]; the only permitted source of randomness.
        """


class LogitsProcessor(Protocol):
    """Changes the logits of all rows that chose it, in one call; the state is as a `Sampler`'s."""

    def init(self, options: Mapping[str, Any], vocab_size: int) -> State:
        """As a `Sampler`'s."""

    def process(self, logits: Array, state: State, context: RowContext) -> tuple[Array, State]:
        """New logits [rows, vocab] for logits [rows, vocab], and the new state."""


# In the engine


@dataclass(frozen=True, slots=True)
class CacheStats:
    """The contents of a response cache, counted. bytes: of keys and values."""

    entries: int
    bytes: int


@runtime_checkable
class ResponseCache(Protocol):
    """Keeps finished replies. Keys are hexadecimal digests, values are opaque bytes.

    Called from one thread of its own, so it may block. What it raises, or takes seconds
    for, costs the reply its caching and nothing else.
    """

    def get(self, key: str) -> bytes | None:
        """The value, or None when there is none or its time is up."""

    def set(self, key: str, value: bytes, ttl: float | None) -> None:
        """Keep a value, for `ttl` seconds if given; older ones may have to go."""

    def delete(self, key: str) -> None:
        """Forget a value; unknown keys are ignored."""

    def clear(self) -> None:
        """Forget all values."""

    def stats(self) -> CacheStats:
        """Count what is held."""

    def close(self) -> None:
        """Release files and connections. Nothing is called afterwards."""


MessageTransform = Callable[[tuple[Message, ...]], Sequence[Message]]
"""Rewrites the messages of a request before the chat template sees them."""


@dataclass(frozen=True, slots=True)
class EndText:
    """Says that a reply ends here, with the finish reason `content_filter`, after `text`."""

    text: str = ""


class OutputFilter(Protocol):
    """Sees the text of one choice before the client does.

    Called on a thread of the request, which waits for it: for 10 s at most.
    """

    def push(self, text: str, last: bool) -> str | EndText:
        """Text to show now. What is not returned is held back or dropped, as the filter likes.

        last: no more text follows; what is still held back must be returned or is lost.
        """


OutputFilterFactory = Callable[[], OutputFilter]
"""Makes the filter of one choice; called once for each."""


RequestEnd = Literal["completed", "failed", "cancelled", "refused"]
"""How a request ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """The record of a request that ended. It holds no text of the request or of the reply.

    A completion of several prompts has a record for each of them, with the same ids.

    model: empty if the request was refused before its model was looked up. outcome: `refused`
    if the request is wrong, not allowed or too much now, which took no computing.
    reasons: finish reasons of the choices; empty unless completed.
    error: code of the error of a failed or refused request.
    request_id: the `X-Request-Id` of its HTTP response. response_id: `id` of the reply; empty
    if there is none. key: the name of the API key, of those without one
    `key-1`, `key-2` and so on, `admin-1` of the first admin key; empty without keys.
    route: path of the endpoint, in its documented spelling; `request_id`, `response_id` and
    `route` are empty for requests of the Python API.
    started, finished: seconds since 1970, on the wall clock; when it arrived and ended.
    usage, timing: so far, where it did not complete; None if nothing was computed for it.
    waited: seconds until the engine took it: its body was read, its model perhaps loaded.
    prepared: seconds for its template, pictures and tokens.
    disk_tokens: of `usage.cached_tokens`, those that were read from disk.
    cache_reason: why no more of its prompt's KV was reused, see `CacheExplanation.reason`; None
    if it did not complete, or was not computed. looked_up: the response cache was asked.
    parameters: `n`, `temperature`, `top_p` and `max_tokens`, as far as they are set.
    """

    model: str
    outcome: RequestEnd
    reasons: tuple[FinishReason, ...] = ()
    error: str | None = None
    cached: bool = False
    usage: Usage | None = None
    timing: Timing | None = None
    request_id: str = ""
    response_id: str = ""
    key: str = ""
    route: str = ""
    started: float = 0.0
    finished: float = 0.0
    waited: float = 0.0
    prepared: float = 0.0
    disk_tokens: int = 0
    cache_reason: MissReason | None = None
    looked_up: bool = False
    parameters: Mapping[str, float] = field(default_factory=dict)


# In the server and the command line


@runtime_checkable
class Route(Protocol):
    """An `aiohttp.web.RouteDef`, as `web.get(path, handler)` makes it.

    Handlers run on the server's only event loop, beside all other requests: what blocks or
    computes for long belongs into `asyncio.to_thread`. Nothing limits the time of a handler. It may
    raise `web.HTTPException`s, and errors of `budmlx.errors`, to answer with their status.
    `request.app[ENGINE]`, with the key `ENGINE` of `budmlx.plugins.routes`, is the `budmlx.Engine`
    of the server: a handler awaits its `achat` or iterates over `astream`, and reads `info`,
    `status()` and `prefix_cache_stats()`. It must not call `chat` or close the engine. What it asks
    counts for the tokens per day of its client's API key.
    """

    method: str
    path: str
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    kwargs: dict[str, Any]


@dataclass(frozen=True, slots=True)
class CommandSpec:
    """A command `budmlx NAME`. target: `package.module:function`, whose signature typer reads."""

    name: str
    summary: str
    target: str

    def __post_init__(self) -> None:
        check_target(self.name, self.target)
