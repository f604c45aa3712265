"""`POST /v1/tokenize`, `/v1/detokenize`, `/v1/apply_template` and the count of a chat's tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

from aiohttp import web
from msgspec import UNSET, Struct, UnsetType
from pydantic import Field

from budmlx.engine.engine import Engine
from budmlx.engine.text.encoding import Encoding
from budmlx.server.body import off_loop, parsed
from budmlx.server.dialects.openai.body import Body, PromptId
from budmlx.server.dialects.openai.chat import ChatRequest
from budmlx.server.dialects.openai.quirks import ERRORS
from budmlx.server.endpoints import EndpointTable
from budmlx.server.json_reply import as_json
from budmlx.server.security import find_model
from budmlx.server.state import CONFIG

endpoints = EndpointTable("/v1", ERRORS)


class TokenizeRequest(Body):
    """Raw text. add_special_tokens: begin with what the model expects there, such as `<s>`."""

    prompt: str = Field(description="Text, which may be empty.")
    add_special_tokens: bool = Field(
        True, description="Begin with what the model expects there, such as `<s>`."
    )


class DetokenizeRequest(Body):
    """Token ids."""

    tokens: Annotated[list[PromptId], Field(strict=True, description="Token ids.")]


class Tokens(Struct, frozen=True):
    """Token ids, the text that each stands for, and what the model takes at most.

    prompt: the text of all of them, where the request did not bring it.
    """

    tokens: tuple[int, ...]
    token_strs: tuple[str, ...]
    count: int
    max_model_len: int
    prompt: str | UnsetType = UNSET
    warnings: Sequence[str] | UnsetType = UNSET


class Text(Struct, frozen=True):
    """Text of token ids, control tokens included."""

    prompt: str
    warnings: Sequence[str] | UnsetType = UNSET


class ChatInputTokens(Struct, frozen=True):
    """The number of tokens of a chat's prompt."""

    input_tokens: int
    object: Literal["chat.completion.input_tokens"] = "chat.completion.input_tokens"
    warnings: Sequence[str] | UnsetType = UNSET


@endpoints.post("/v1/tokenize", "Token ids of raw text", TokenizeRequest, Tokens)
async def tokenize(request: web.Request) -> web.Response:
    """Token ids of raw text, and what each stands for."""
    body, size = await parsed(request, TokenizeRequest.parse)
    warnings = body.review(strict=request.app[CONFIG].strict)

    def work(engine: Engine) -> Struct:
        found = engine.tokenize(body.prompt, add_special=body.add_special_tokens)
        return _tokens(found, engine.info.context_length, warnings, with_text=False)

    model = await find_model(request, body.model)
    async with model.aengine() as engine:
        return await off_loop(size, _answer, work, engine)


@endpoints.post("/v1/detokenize", "Text of token ids", DetokenizeRequest, Text)
async def detokenize(request: web.Request) -> web.Response:
    """Text of token ids."""
    body, size = await parsed(request, DetokenizeRequest.parse)
    warnings = body.review(strict=request.app[CONFIG].strict)

    def work(engine: Engine) -> Struct:
        return Text(engine.detokenize(body.tokens), warnings or UNSET)

    model = await find_model(request, body.model)
    async with model.aengine() as engine:
        return await off_loop(size, _answer, work, engine)


@endpoints.post(
    "/v1/apply_template", "The prompt that the body of a chat becomes", ChatRequest, Tokens
)
async def apply_template(request: web.Request) -> web.Response:
    """The prompt that the model would get for the body of a chat, as text and as ids."""
    body, _ = await parsed(request, ChatRequest.parse)
    warnings = body.review(strict=request.app[CONFIG].strict, streaming=True)

    def work(engine: Engine) -> Struct:
        chat = body.to_request()
        found = engine.apply_template(chat)
        notes = [*warnings, *engine.warnings(chat)]
        return _tokens(found, engine.info.context_length, notes, with_text=True)

    model = await find_model(request, body.model)
    async with model.aengine() as engine:
        # Message transforms of plugins may take their time.
        return await asyncio.to_thread(_answer, work, engine)


@endpoints.post(
    "/v1/chat/completions/input_tokens",
    "Count the tokens that the body of a chat has",
    ChatRequest,
    ChatInputTokens,
    brief=True,
)
async def input_tokens(request: web.Request) -> web.Response:
    """Count the tokens of the prompt that the body of a chat becomes; nothing is generated."""
    body, _ = await parsed(request, ChatRequest.parse)
    warnings = body.review(strict=request.app[CONFIG].strict, streaming=True)

    def work(engine: Engine) -> Struct:
        chat = body.to_request()
        notes = [*warnings, *engine.warnings(chat)]
        return ChatInputTokens(engine.count_tokens(chat), warnings=notes or UNSET)

    model = await find_model(request, body.model)
    async with model.aengine() as engine:
        return await asyncio.to_thread(_answer, work, engine)


def _answer(work: Callable[[Engine], Struct], engine: Engine) -> web.Response:
    return as_json(work(engine))


def _tokens(
    found: Encoding, context_length: int, warnings: Sequence[str], *, with_text: bool
) -> Tokens:
    """The response for an encoding."""
    return Tokens(
        found.ids,
        found.pieces,
        len(found.ids),
        context_length,
        found.text if with_text else UNSET,
        warnings or UNSET,
    )
