"""`POST /api/generate`: its body, and the handler that answers or continues a text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from aiohttp import web
from pydantic import Field

from budmlx.errors import InvalidRequestError
from budmlx.server.dialects.ollama.context import ContinuedLines
from budmlx.server.dialects.ollama.generation import GenerationBody, answered
from budmlx.server.dialects.ollama.messages import Images, content_of
from budmlx.server.dialects.ollama.reply import GENERATE_LINES, GenerateLine, GenerateLines
from budmlx.server.dialects.ollama.request_body import read
from budmlx.server.endpoints import EndpointTable
from budmlx.server.generation_body import TokenId
from budmlx.server.wire import Text
from budmlx.types import Message, Request

endpoints = EndpointTable()


class OllamaGenerate(GenerationBody):
    """The body."""

    prompt: Text = Field("", description="What the user says; without any, the model is loaded.")
    system: Text = Field("", description="Instructions before it.")
    images: Images = Field([], description="Pictures before it, each a file in base64.")
    suffix: Text = Field(
        "", description="Text that follows: the reply is what stands between; not all models can."
    )
    context: list[TokenId] | None = Field(
        None,
        description="Token ids of what was said before, from the last line of its reply; a list, "
        "which may be empty, asks for such ids.",
    )
    raw: bool = Field(False, description="Continue the prompt as it is, without a chat template.")

    @property
    def empty(self) -> bool:
        """Whether the model is only to be loaded, or unloaded."""
        return not (self.prompt or self.images or self.suffix)

    def overridden(self) -> Iterator[str]:
        """A warning for each field that has no effect."""
        yield from super().overridden()
        if self.system and self.is_raw:
            yield "`system` has no effect on raw text."

    @property
    def is_raw(self) -> bool:
        """Whether no chat template is used."""
        return self.raw or bool(self.suffix)

    def to_request(self) -> Request:
        """The same request as a plain value. Raises InvalidRequestError."""
        if self.is_raw:
            return self._raw()
        user = Message(role="user", content=content_of(self.prompt, self.images))
        system = [Message(role="system", content=self.system)] if self.system else []
        return Request(
            messages=(*system, user),
            chat_template_kwargs=self.template_kwargs,
            **self.common(),
        )

    def _raw(self) -> Request:
        if self.images:
            raise InvalidRequestError(
                "`images` cannot be shown in raw text: no template says where.", param="images"
            )
        return Request(
            prompt=self.prompt,
            suffix=self.suffix or None,
            reasoning="raw",
            chat_template_kwargs=self.template_kwargs,
            **self.common(),
        )


@endpoints.post(
    "/api/generate",
    "Answer a text, or continue it",
    OllamaGenerate,
    reply=GenerateLine,
    streamed=GENERATE_LINES,
)
async def generate(request: web.Request) -> web.StreamResponse:
    """Answer a text or continue it, as JSON or as lines of it."""
    body, size = await read(request, OllamaGenerate.parse)
    kind: Callable[..., GenerateLines] = GenerateLines
    if body.context is not None:
        kind = partial(ContinuedLines, context=body.context)
    return await answered(request, body, size, kind)
