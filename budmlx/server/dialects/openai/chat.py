"""`POST /v1/chat/completions`: its body, and the handler that answers a conversation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property, partial
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import Field

from budmlx.engine.engine import Engine
from budmlx.engine.reply.completion import completion
from budmlx.errors import InvalidRequestError
from budmlx.server import answer
from budmlx.server.body import off_loop, parsed
from budmlx.server.declared import within
from budmlx.server.dialects.openai.chat_reply import ChatCompletion, ChatReply, Chunk
from budmlx.server.dialects.openai.messages import ChatMessage, OptionalPrediction
from budmlx.server.dialects.openai.quirks import ERRORS
from budmlx.server.dialects.openai.reply import server_sent
from budmlx.server.dialects.openai.sampling import GenerationRequest
from budmlx.server.dialects.openai.tools import (
    NO_TOOLS,
    CallableTools,
    Functions,
    NewChoice,
    OldChoice,
    Tools,
    resolve_tools,
)
from budmlx.server.endpoints import EndpointTable
from budmlx.server.line_request import AnyRequest, LineRequest
from budmlx.server.records import ORIGIN
from budmlx.server.security import find_model, priority_of
from budmlx.server.state import CONFIG, NAMESPACE
from budmlx.server.wire import Int, ignored
from budmlx.types import Request, SamplingParams

MAX_MESSAGES = 4096

endpoints = EndpointTable("/v1", ERRORS)


class ChatRequest(GenerationRequest):
    """The body. Fields that only some clients know by another name have both."""

    messages: Annotated[
        list[ChatMessage],
        Field(min_length=1, max_length=MAX_MESSAGES, description="The conversation so far."),
    ]
    max_completion_tokens: Annotated[Int, Field(ge=1)] | None = Field(
        None, description="The same as `max_tokens`, over which it takes precedence."
    )
    min_completion_tokens: Annotated[Int, within("min_tokens")] | None = Field(
        None, description="The same as `min_tokens`, over which it takes precedence."
    )
    logprobs: bool = Field(
        False, description="Report log probabilities of the tokens of the reply."
    )
    top_logprobs: Annotated[Int, within("logprobs")] | None = Field(
        None, description="So many of the most likely tokens at each place; implies `logprobs`."
    )
    tools: Tools = Field([], description="Functions that the model may call.")
    tool_choice: NewChoice | None = Field(
        None, description="Whether it calls one; `any` is `required`."
    )
    parallel_tool_calls: bool = Field(True, description="It may call several at once.")
    functions: Functions = Field(
        [], description="The older name of tools; has no effect beside `tools`."
    )
    function_call: OldChoice | None = Field(
        None, description="What `tool_choice` is for tools, for functions."
    )
    reasoning_format: Literal["parsed", "text_parsed", "raw", "hidden", "none"] = Field(
        "parsed",
        description="Reasoning apart (`parsed`), within the content (`raw`), or not at all; "
        "`none` is the default, and `text_parsed` the same as `parsed`.",
    )
    disable_reasoning: bool | None = Field(None, description="For the chat template: no reasoning.")
    clear_thinking: bool | None = Field(
        None, description="For the chat template: leave out the reasoning of former turns."
    )
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = (
        Field(
            None,
            description="For the chat template, which gets the nearest level that it knows; `none` "
            "asks for no reasoning.",
        )
    )
    chat_template_kwargs: dict[str, Any] = Field(
        {}, description="Further variables for the chat template."
    )
    prediction: OptionalPrediction = None

    def overridden(self) -> Iterator[str]:
        """A warning for each field that another one overrides, if they differ."""
        yield from super().overridden()
        yield from self.other_name("max_tokens", "max_completion_tokens")
        yield from self.other_name("min_tokens", "min_completion_tokens")
        if self.top_logprobs and "logprobs" in self.model_fields_set and not self.logprobs:
            yield ignored("logprobs", "top_logprobs")
        yield from self.callable_tools.overridden
        several = self.parallel_tool_calls and "parallel_tool_calls" in self.model_fields_set
        if several and self.uses_functions:
            yield "`parallel_tool_calls` has no effect on `functions`."
        for variable, (name, value) in self._short.items():
            if self.chat_template_kwargs.get(variable, value) != value:
                yield ignored(name, f"chat_template_kwargs.{variable}")
        if self.reasoning_effort == "none" and self.disable_reasoning is False:
            yield ignored("reasoning_effort", "disable_reasoning")
        for index, message in enumerate(self.messages):
            yield from message.overridden(f"messages[{index}]")

    @property
    def wants_logprobs(self) -> bool:
        """Whether to report logprobs. Documented client code sends top_logprobs alone."""
        return self.logprobs or bool(self.top_logprobs)

    @property
    def template_kwargs(self) -> dict[str, Any]:
        """Variables for the chat template. They take precedence over their shorthands."""
        short = {variable: value for variable, (_, value) in self._short.items()}
        return {**short, **self.chat_template_kwargs}

    @property
    def _short(self) -> dict[str, tuple[str, Any]]:
        """Template variables that have a field: its name, and the value of the variable."""
        short: dict[str, tuple[str, Any]] = {}
        if self.reasoning_effort is not None:
            short["reasoning_effort"] = ("reasoning_effort", self.reasoning_effort)
        if self.reasoning_effort == "none":
            short["enable_thinking"] = ("reasoning_effort", False)
        if self.disable_reasoning is not None:
            short["enable_thinking"] = ("disable_reasoning", not self.disable_reasoning)
        if self.clear_thinking is not None:
            short["clear_thinking"] = ("clear_thinking", self.clear_thinking)
        return short

    @cached_property
    def callable_tools(self) -> CallableTools:
        """The tools that the model may call. Raises InvalidRequestError naming what is wrong."""
        given = (self.tools, self.tool_choice, self.functions, self.function_call)
        return resolve_tools(*given) if any(given) else NO_TOOLS

    @property
    def uses_functions(self) -> bool:
        """Whether the client uses functions, the older name of tools. Tools take precedence."""
        return bool(self.functions) and not self.tools

    def _sampling(self) -> SamplingParams:
        minimum = self.min_completion_tokens
        try:
            return self.sampling(
                max_tokens=self.max_completion_tokens or self.max_tokens,
                min_tokens=self.min_tokens if minimum is None else minimum,
                logprobs=(self.top_logprobs or 0) if self.wants_logprobs else None,
            )
        except InvalidRequestError as error:
            if error.param == "min_tokens" and minimum is not None:
                # The name that the client used.
                error.param = "min_completion_tokens"
            raise

    def to_request(self, *, incremental_calls: bool = False) -> Request:
        """The same request as a plain value. Raises InvalidRequestError for combinations.

        incremental_calls: the default if the client does not say.
        """
        requested = self.stream_options.incremental_tool_calls if self.stream_options else None
        thinking: dict[str, Literal["raw", "hidden"]] = {"raw": "raw", "hidden": "hidden"}
        return Request(
            messages=tuple(message.to_message() for message in self.messages),
            sampling=self._sampling(),
            given=frozenset(self.model_fields_set),
            n=self.n,
            tools=self.callable_tools.tools,
            tool_choice=self.callable_tools.choice,
            parallel_tool_calls=self.parallel_tool_calls and not self.uses_functions,
            incremental_calls=incremental_calls if requested is None else requested,
            response_format=None
            if self.response_format is None
            else self.response_format.to_format(),
            reasoning=thinking.get(self.reasoning_format, "parsed"),
            chat_template_kwargs=self.template_kwargs,
            cache=self.cache,
            cache_salt=self.cache_salt,
            explain_cache=self.explain_cache,
            speculation=self.speculation,
            prediction="" if self.prediction is None else self.prediction.text,
        )


@endpoints.post(
    "/v1/chat/completions",
    "Answer a conversation",
    ChatRequest,
    reply=ChatCompletion,
    streamed=server_sent(Chunk),
)
async def chat_completions(request: web.Request) -> web.StreamResponse:
    """Answer a conversation, as JSON or as a stream of events."""
    return await _answered(request, *await parsed(request, ChatRequest.parse))


async def answer_line(request: LineRequest, body: dict[str, Any], size: int) -> web.StreamResponse:
    """Answer a conversation that came in a file."""
    return await _answered(request, await off_loop(size, ChatRequest.parse, body), size)


async def _answered(request: AnyRequest, chat: ChatRequest, size: int) -> web.StreamResponse:
    config = request.app[CONFIG]
    streaming = chat.wants_stream(request.headers)
    warnings = chat.review(streaming=streaming, strict=config.strict)
    model = await find_model(request, chat.model)
    generation = replace(
        chat.to_request(incremental_calls=config.incremental_tool_calls),
        namespace=request.get(NAMESPACE, ""),
        priority=priority_of(request, chat.priority, low=chat.low_priority),
        adapter=chat.adapter_of(model),
    )
    reply = ChatReply(
        chat,
        warnings,
        logprobs=chat.wants_logprobs,
        uses_functions=chat.uses_functions,
        agent=request.headers.get("User-Agent", ""),
    )

    async def run(engine: Engine) -> answer.Events:
        await off_loop(size, reply.loaded, engine, generation)
        return engine.aevents(generation, request.get(ORIGIN))

    if streaming and isinstance(request, web.Request):
        return await answer.streamed(request, model, reply, run)
    collect = partial(completion, model.name, warnings)
    return await answer.whole(request, model, reply, run, collect)
