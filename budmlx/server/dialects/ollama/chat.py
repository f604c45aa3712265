"""`POST /api/chat`: its body, and the handler that answers a conversation."""

from __future__ import annotations

from typing import Annotated, Any

from aiohttp import web
from pydantic import Field

from budmlx.engine.request.tools import parse_tools
from budmlx.server.dialects.ollama.generation import GenerationBody, answered
from budmlx.server.dialects.ollama.messages import OllamaMessage
from budmlx.server.dialects.ollama.reply import CHAT_LINES, ChatLine, ChatLines
from budmlx.server.dialects.ollama.request_body import read
from budmlx.server.endpoints import EndpointTable
from budmlx.types import Request

MAX_MESSAGES = 4096

endpoints = EndpointTable()


class OllamaChat(GenerationBody):
    """The body."""

    messages: Annotated[list[OllamaMessage], Field(max_length=MAX_MESSAGES)] = Field(
        [], description="The conversation so far; without any, the model is only loaded."
    )
    tools: list[dict[str, Any]] = Field([], description="Functions that the model may call.")

    @property
    def empty(self) -> bool:
        """Whether the model is only to be loaded, or unloaded."""
        return not self.messages

    def to_request(self) -> Request:
        """The same request as a plain value. Raises InvalidRequestError."""
        return Request(
            messages=tuple(message.to_message() for message in self.messages),
            tools=parse_tools(self.tools),
            chat_template_kwargs=self.template_kwargs,
            **self.common(),
        )


@endpoints.post(
    "/api/chat", "Answer a conversation", OllamaChat, reply=ChatLine, streamed=CHAT_LINES
)
async def chat(request: web.Request) -> web.StreamResponse:
    """Answer a conversation, as JSON or as lines of it."""
    body, size = await read(request, OllamaChat.parse)
    return await answered(request, body, size, ChatLines)
