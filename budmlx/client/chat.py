"""`client.chat.completions.create`, its replies and its streams."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import Any, Literal, Unpack, overload

import openai
from openai.types import chat as shapes
from pydantic import BaseModel

from budmlx.client.errors import translated
from budmlx.client.parameters import Parameters

Messages = Iterable[Mapping[str, Any] | BaseModel]

PATH = "/chat/completions"


class ChatCompletion(shapes.ChatCompletion):
    """A whole reply. cached: it came from the response cache. warnings: on unused fields."""

    cached: bool = False
    warnings: list[str] = []  # noqa: RUF012  pydantic copies mutable defaults


class ChatCompletionChunk(shapes.ChatCompletionChunk):
    """A piece of a reply. cached, warnings: of the last one."""

    cached: bool = False
    warnings: list[str] = []  # noqa: RUF012


class ChatStream(openai.Stream[ChatCompletionChunk]):
    """The pieces of a reply as they come. Closing it ends the generation."""

    def __iter__(self) -> Iterator[ChatCompletionChunk]:
        return self

    def __next__(self) -> ChatCompletionChunk:
        try:
            return super().__next__()
        except openai.OpenAIError as error:
            raise translated(error) from error


class AsyncChatStream(openai.AsyncStream[ChatCompletionChunk]):
    """`ChatStream` for asyncio."""

    def __aiter__(self) -> AsyncIterator[ChatCompletionChunk]:
        return self

    async def __anext__(self) -> ChatCompletionChunk:
        try:
            return await super().__anext__()
        except openai.OpenAIError as error:
            raise translated(error) from error


class Completions:
    """`client.chat.completions`."""

    def __init__(self, client: openai.OpenAI):
        self._client = client

    @overload
    def create(
        self,
        *,
        model: str,
        messages: Messages,
        stream: Literal[False] = False,
        **parameters: Unpack[Parameters],
    ) -> ChatCompletion: ...

    @overload
    def create(
        self,
        *,
        model: str,
        messages: Messages,
        stream: Literal[True],
        **parameters: Unpack[Parameters],
    ) -> ChatStream: ...

    def create(
        self, *, model: str, messages: Messages, stream: bool = False, **parameters: Any
    ) -> ChatCompletion | ChatStream:
        """Answer a conversation, whole or as a stream.

        messages: as dicts, or as replies hold them.

        Raises:
            RateLimitError: status 429, after as many retries as the client makes.
            BudAPIError: the server answered with another error, or not at all.
        """
        body = _body(model, messages, stream, parameters)
        try:
            return self._client.post(
                PATH, body=body, cast_to=ChatCompletion, stream=stream, stream_cls=ChatStream
            )
        except openai.OpenAIError as error:
            raise translated(error) from error


class AsyncCompletions:
    """`Completions` for asyncio."""

    def __init__(self, client: openai.AsyncOpenAI):
        self._client = client

    @overload
    async def create(
        self,
        *,
        model: str,
        messages: Messages,
        stream: Literal[False] = False,
        **parameters: Unpack[Parameters],
    ) -> ChatCompletion: ...

    @overload
    async def create(
        self,
        *,
        model: str,
        messages: Messages,
        stream: Literal[True],
        **parameters: Unpack[Parameters],
    ) -> AsyncChatStream: ...

    async def create(
        self, *, model: str, messages: Messages, stream: bool = False, **parameters: Any
    ) -> ChatCompletion | AsyncChatStream:
        """Answer a conversation; see `Completions.create`."""
        body = _body(model, messages, stream, parameters)
        try:
            return await self._client.post(
                PATH, body=body, cast_to=ChatCompletion, stream=stream, stream_cls=AsyncChatStream
            )
        except openai.OpenAIError as error:
            raise translated(error) from error


def _body(
    model: str, messages: Messages, stream: bool, parameters: Mapping[str, Any]
) -> dict[str, Any]:
    history = [
        message.model_dump(exclude_none=True) if isinstance(message, BaseModel) else message
        for message in messages
    ]
    given = {name: value for name, value in parameters.items() if value is not None}
    return {"model": model, "messages": history, "stream": stream, **given}


class Chat:
    """`client.chat`."""

    def __init__(self, client: openai.OpenAI):
        self.completions = Completions(client)


class AsyncChat:
    """`Chat` for asyncio."""

    def __init__(self, client: openai.AsyncOpenAI):
        self.completions = AsyncCompletions(client)
