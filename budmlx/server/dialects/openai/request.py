"""The request of `POST /v1/chat/completions`, from JSON to `types.Request`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field

from budmlx.engine.request.tools import parse_response_format
from budmlx.errors import InvalidRequestError
from budmlx.server.dialects.openai.declared import within
from budmlx.server.dialects.openai.messages import ChatMessage, Int, WireModel, with_parts
from budmlx.server.dialects.openai.params import Extras, ignored
from budmlx.server.dialects.openai.sampling import GenerationRequest
from budmlx.server.dialects.openai.tools import Calls, beyond_calls, parse_calls
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
        """The fields that nothing here knows, with their places."""
        parts: list[tuple[tuple[str | int, ...], WireModel]] = []
        for index, message in enumerate(self.messages):
            parts.extend(with_parts(("messages", index), message))
        known = ((loc, part.model_extra) for loc, part in parts if part.model_extra)
        return [*super().extras(), *known, *beyond_calls(*self._call_fields)]

    def overridden(self) -> Iterator[str]:
        """A warning for each field that another one goes before, if they differ."""
        yield from super().overridden()
        yield from self.other_name("max_tokens", "max_completion_tokens")
        yield from self.other_name("min_tokens", "min_completion_tokens")
        if self.top_logprobs and "logprobs" in self.model_fields_set and not self.logprobs:
            yield ignored("logprobs", "top_logprobs")
        yield from self.calls.overridden
        several = self.parallel_tool_calls and "parallel_tool_calls" in self.model_fields_set
        if several and self.uses_functions:
            yield "`parallel_tool_calls` has no effect on `functions`."
        if self.calls.forced and parse_response_format(self.response_format) is not None:
            yield "`response_format` has no effect on a reply that must be a call."
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
        """Variables for the chat template. What is given there goes before its shorthands."""
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

    @property
    def _call_fields(self) -> tuple[list[Any], Any, list[Any], Any]:
        return self.tools, self.tool_choice, self.functions, self.function_call

    @cached_property
    def calls(self) -> Calls:
        """What the model may call. Raises InvalidRequestError naming what is wrong."""
        return parse_calls(*self._call_fields)

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
        thinking: dict[str, Literal["raw", "hidden"]] = {"raw": "raw", "hidden": "hidden"}
        return Request(
            messages=tuple(message.to_message() for message in self.messages),
            sampling=self._sampling(),
            n=self.n,
            tools=self.calls.tools,
            tool_choice=self.calls.choice,
            parallel_tool_calls=self.parallel_tool_calls and not self.uses_functions,
            incremental_calls=incremental_calls if asked is None else asked,
            response_format=parse_response_format(self.response_format),
            reasoning=thinking.get(self.reasoning_format, "parsed"),
            chat_template_kwargs=self.template_kwargs,
            cache=self.cache,
            cache_salt=self.cache_salt,
            explain_cache=self.explain_cache,
        )
