"""What chats and texts have in common: the fields of their bodies, and how they are answered."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from aiohttp import web
from pydantic import Discriminator, Field, Tag

from budmlx.engine.engine import Engine
from budmlx.engine.models.models import ServedModel
from budmlx.engine.reply.completion import completion
from budmlx.errors import InvalidRequestError
from budmlx.server import answer, generation_body
from budmlx.server.body import off_loop
from budmlx.server.declared import within
from budmlx.server.dialects.ollama.keep_alive import KeepAlive, granted
from budmlx.server.dialects.ollama.names import meant
from budmlx.server.dialects.ollama.options import NAMES, WITHOUT_EFFECT, Options
from budmlx.server.dialects.ollama.reply import NoText, ReplyBuilder
from budmlx.server.records import ORIGIN
from budmlx.server.security import find_model, priority_of
from budmlx.server.state import CONFIG, MODELS, NAMESPACE
from budmlx.server.unknown_fields import KnownFields
from budmlx.server.warnings_header import warnings_header
from budmlx.server.wire import ErrorMessage, Int, ignored
from budmlx.types import Request, ResponseFormat

Effort = Literal["low", "medium", "high", "max"]
Think = Annotated[
    bool | Effort, ErrorMessage('must be true, false, "low", "medium", "high" or "max"')
]
Format = Annotated[
    Annotated[Literal["json", ""], Tag("<word>")] | Annotated[dict[str, Any], Tag("<schema>")],
    Discriminator(lambda value: "<schema>" if isinstance(value, dict) else "<word>"),
    ErrorMessage('must be "json" or a JSON schema'),
]
_PLACES = {ours: f"options.{theirs}" for theirs, ours in NAMES.items()}


class GenerationBody(generation_body.GenerationBody):
    """The fields of bodies that ask for generated text.

    Ollama has sampling parameters in `options`, which go before those beside it.
    """

    known: ClassVar = KnownFields(
        without_effect=frozenset(
            {"truncate", "shift", "template", *(f"options.{name}" for name in WITHOUT_EFFECT)}
        )
    )

    stream: bool | None = Field(
        None, description="Answer with lines of JSON as they come; so it is if absent, too."
    )
    format: Format | None = Field(
        None, description='The form of the reply: "json", or a JSON schema.'
    )
    think: Think | None = Field(
        None, description="Whether the model reasons, or how much; absent: as the model does."
    )
    keep_alive: KeepAlive | None = Field(
        None,
        description='Seconds, or a duration such as "5m", that the model stays loaded unused; '
        "negative: for good. Needs admin rights.",
    )
    options: Options = Field(Options(), description="Sampling parameters.")
    logprobs: bool = Field(False, description="Report log probabilities of the reply's tokens.")
    top_logprobs: Annotated[Int, within("logprobs")] = Field(
        0, description="So many of the most likely tokens at each place; implies `logprobs`."
    )

    @property
    @abstractmethod
    def empty(self) -> bool:
        """Whether the model is only to be loaded, or unloaded."""

    @abstractmethod
    def to_request(self) -> Request:
        """The same request as a plain value. Raises InvalidRequestError."""

    @property
    def streams(self) -> bool:
        """Whether to answer line by line."""
        return self.stream is not False

    def overridden(self) -> Iterator[str]:
        """A warning for each field that another one overrides, if they differ."""
        yield from super().overridden()
        for name, value in self.options.sampling().items():
            if name in self.model_fields_set and getattr(self, name) != value:
                yield ignored(name, _place(name))

    @property
    def wants_logprobs(self) -> bool:
        """Whether to report logprobs."""
        return self.logprobs or self.top_logprobs > 0

    @property
    def response_format(self) -> ResponseFormat | None:
        """The form that the reply must have; None for any text."""
        if isinstance(self.format, dict):
            return ResponseFormat("json_schema", self.format, "format")
        return ResponseFormat("json_object", param="format") if self.format else None

    @property
    def template_kwargs(self) -> dict[str, Any]:
        """Variables for the chat template."""
        if self.think is None:
            return {}
        if isinstance(self.think, str):
            return {"reasoning_effort": self.think}
        return {"enable_thinking": self.think}

    def common(self) -> dict[str, Any]:
        """Fields of every request. Raises InvalidRequestError naming the option."""
        said = self.options.sampling()
        logprobs = self.top_logprobs if self.wants_logprobs else None
        try:
            sampling = self.sampling(**said, logprobs=logprobs)
        except InvalidRequestError as error:
            names = {name: _place(name) for name in said}
            error.message = generation_body.renamed(error.message, names)
            error.param = error.param and names.get(error.param, error.param)
            raise
        return {
            "sampling": sampling,
            "given": frozenset(self.model_fields_set | said.keys()),
            "response_format": self.response_format,
            "cache": self.cache,
            "cache_salt": self.cache_salt,
            "explain_cache": self.explain_cache,
            "speculation": self.speculation,
        }


def _place(name: str) -> str:
    """Where a parameter of ours stands in the options."""
    return _PLACES.get(name, f"options.{name}")


async def answered(
    request: web.Request, body: GenerationBody, size: int, kind: Callable[..., ReplyBuilder]
) -> web.StreamResponse:
    """Answer a request. size: bytes of the body. kind: makes what encodes the reply."""
    warnings = body.review(strict=request.app[CONFIG].strict)
    model = await find_model(request, meant(body.model, request.app[MODELS]))
    keep = granted(request, body.keep_alive, warnings)
    reply = kind(body.model, warnings, logprobs=body.wants_logprobs)
    if body.empty:
        return web.Response(
            body=reply.resident(await _resided(model, body.keep_alive, keep)),
            content_type="application/x-ndjson" if body.streams else "application/json",
            headers=warnings_header(warnings),
        )
    generation = replace(
        body.to_request(),
        namespace=request.get(NAMESPACE, ""),
        priority=priority_of(request, body.priority, low=body.low_priority),
        adapter=body.adapter_of(model),
    )

    async def run(engine: Engine) -> answer.Events:
        if keep is not None:
            model.keep(keep)
        known = len(warnings)
        ready = await off_loop(size, reply.loaded, engine, generation)
        names = dict.fromkeys(body.template_kwargs, "think")
        warnings[known:] = [generation_body.renamed(each, names) for each in warnings[known:]]
        return engine.aevents(ready, request.get(ORIGIN))

    if body.streams:
        return await answer.streamed(request, model, reply, run)
    collect = partial(completion, model.name, warnings)
    return await answer.whole(request, model, reply, run, collect)


async def _resided(model: ServedModel, asked: float | None, keep: float | None) -> NoText:
    """Load a model for as long as granted, or have it go; returns what was done.

    Who may not have it go did not want it to be loaded either: nothing is done.
    """
    if asked == 0:
        if keep is None:
            return "stop"
        model.keep(0.0)
        return "unload"
    async with model.aengine():
        if keep is not None:
            model.keep(keep)
    return "load"
