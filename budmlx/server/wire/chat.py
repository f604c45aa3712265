"""The request of `POST /v1/chat/completions`, from JSON to `types.Request`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from budmlx.engine.tools import parse_response_format, parse_tool_choice, parse_tools
from budmlx.errors import InvalidRequestError
from budmlx.server.wire.messages import ChatMessage, Int, WireModel, with_parts
from budmlx.server.wire.params import Extras
from budmlx.server.wire.sampling import GenerationRequest, within
from budmlx.types import Request, SamplingParams

MAX_MESSAGES = 4096


class ChatRequest(GenerationRequest):
    """The body. Fields that only some clients know by another name have both."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Annotated[Int, Field(ge=1)] | None = None
    min_completion_tokens: Annotated[Int, within("min_tokens")] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[Int, within("logprobs")] | None = None
    tools: list[Any] = []
    tool_choice: Any = None
    parallel_tool_calls: bool = True
    functions: list[Any] = []
    function_call: Any = None
    reasoning_format: Literal["parsed", "text_parsed", "raw", "hidden", "none"] = "parsed"
    disable_reasoning: bool | None = None
    clear_thinking: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high"] | None = None
    chat_template_kwargs: dict[str, Any] = {}

    def extras(self) -> Extras:
        """The fields that no wire model knows, with their places."""
        parts: list[tuple[tuple[str | int, ...], WireModel]] = []
        for index, message in enumerate(self.messages):
            parts.extend(with_parts(("messages", index), message))
        known = ((loc, part.model_extra) for loc, part in parts if part.model_extra)
        return [*super().extras(), *known]

    @property
    def wants_logprobs(self) -> bool:
        """Whether to report logprobs. Documented client code sends top_logprobs alone."""
        return self.logprobs or bool(self.top_logprobs)

    @property
    def template_kwargs(self) -> dict[str, Any]:
        """Variables for the chat template. What is given there goes before its shorthands."""
        short: dict[str, Any] = {}
        if self.reasoning_effort is not None:
            short["reasoning_effort"] = self.reasoning_effort
        if self.reasoning_effort == "none":
            short["enable_thinking"] = False
        if self.disable_reasoning is not None:
            short["enable_thinking"] = not self.disable_reasoning
        if self.clear_thinking is not None:
            short["clear_thinking"] = self.clear_thinking
        return {**short, **self.chat_template_kwargs}

    @property
    def uses_functions(self) -> bool:
        """Whether the client speaks of functions, the older name of tools. Tools win."""
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

        incremental_calls: what holds if the client does not say.
        """
        asked = self.stream_options.incremental_tool_calls if self.stream_options else None
        old = self.uses_functions
        tools = parse_tools(self.functions, "functions") if old else parse_tools(self.tools)
        choice = (self.function_call, "function_call") if old else (self.tool_choice, "tool_choice")
        thinking: dict[str, Literal["raw", "hidden"]] = {"raw": "raw", "hidden": "hidden"}
        return Request(
            messages=tuple(message.to_message() for message in self.messages),
            sampling=self._sampling(),
            n=self.n,
            tools=tools,
            tool_choice=parse_tool_choice(choice[0], tools, choice[1]),
            parallel_tool_calls=self.parallel_tool_calls and not old,
            incremental_calls=incremental_calls if asked is None else asked,
            response_format=parse_response_format(self.response_format),
            reasoning=thinking.get(self.reasoning_format, "parsed"),
            chat_template_kwargs=self.template_kwargs,
            cache=self.cache,
            cache_salt=self.cache_salt,
            explain_cache=self.explain_cache,
        )
