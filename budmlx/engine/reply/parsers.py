"""Parsers of a model for tool calls and reasoning, and the readers they make for a request."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from budmlx.config import ModelConfig
from budmlx.engine.reply.output_reader import OutputReader, Stage
from budmlx.engine.text.tokenizer import Tokenizer
from budmlx.errors import InvalidRequestError
from budmlx.plugins.boundary import calling
from budmlx.plugins.manager import Owned, Plugins
from budmlx.plugins.parsing import ModelTraits, ReasoningParserSpec, ToolParserSpec
from budmlx.types import Request, Tool

log = logging.getLogger(__name__)

TAIL_TOKENS = 64
"""Tokens at the end of a prompt that show whether it ends inside of reasoning."""


@dataclass(frozen=True, slots=True)
class Parsers:
    """The parsers of a model's tool calls and reasoning; None where none is known."""

    tokenizer: Tokenizer
    calls: Owned[ToolParserSpec] | None
    reasoning: Owned[ReasoningParserSpec] | None

    @classmethod
    def of(cls, plugins: Plugins, tokenizer: Tokenizer, model: str, config: ModelConfig) -> Parsers:
        """Find the parsers for a model type among the plugins.

        Raises:
            ConfigError: no plugin knows a parser that was named.
        """
        added = tokenizer.backend.get_added_tokens_decoder().values()
        traits = ModelTraits(
            model,
            tokenizer.template(tools=True).source,
            frozenset(token.content for token in added),
        )
        calls = plugins.chosen("provide_tool_parser", config.tool_parser, traits)
        if calls is not None and calls.value.guessed:
            log.warning(
                "The chat template takes tools, but shows no known format of calls: calls are read "
                "as %s writes them, and cannot be forced. Name the format with tool_parser.",
                calls.value.name,
            )
        return cls(
            tokenizer,
            calls,
            plugins.chosen("provide_reasoning_parser", config.reasoning_parser, traits),
        )

    def check(self, request: Request) -> None:
        """Refuse tools that this model cannot use. Raises InvalidRequestError."""
        if not active_tools(request):
            return
        if not self.tokenizer.template(tools=True).reads_tools:
            problem = "this model's chat template does not take tools"
        elif self.calls is None:
            problem = "no parser knows how this model calls tools; name one with tool_parser"
        else:
            return
        raise InvalidRequestError(f"tools cannot be used: {problem}.", param="tools")

    def tail(self, ids: Sequence[int]) -> str:
        """The end of a prompt as text, control tokens included."""
        backend = self.tokenizer.backend
        return str(backend.decode(list(ids[-TAIL_TOKENS:]), skip_special_tokens=False))

    def used(self, request: Request) -> list[str]:
        """Names of the plugins whose parsers a request may need."""
        used: list[str] = []
        if self.calls is not None and active_tools(request):
            used.append(self.calls.plugin)
        if self.reasoning is not None and _thinks(request):
            used.append(self.reasoning.plugin)
        return used

    def visible(self, request: Request) -> frozenset[str]:
        """Control tokens that the request's parsers, or its caller, must see as text."""
        seen: list[str] = []
        if self.calls is not None and active_tools(request):
            seen += self.calls.value.visible
        if self.reasoning is not None and _thinks(request):
            seen += self.reasoning.value.visible
        return frozenset(seen)

    def reader(self, request: Request, tail: str) -> OutputReader | None:
        """The reader that splits the text of one choice; None if it is all content."""
        reasoning = calls = drafts = None
        if self.reasoning is not None and _thinks(request) and request.reasoning != "raw":
            spec, plugin = self.reasoning.value, self.reasoning.plugin
            what = f"reasoning parser {spec.name}"
            with calling(plugin, what):
                reasoning = Stage(spec.make(tail), plugin, what)
        if self.calls is not None and (tools := active_tools(request)):
            spec_, plugin = self.calls.value, self.calls.plugin
            what = f"tool parser {spec_.name}"
            with calling(plugin, what):
                calls = Stage(spec_.make(tools, request.incremental_calls), plugin, what)
            # A forced call comes after the reasoning for sure.
            if reasoning is not None and request.tool_choice.mode != "required":
                drafts = _drafts(spec_, tools, plugin)
        if reasoning is None and calls is None:
            return None
        one_call = not request.parallel_tool_calls
        return OutputReader(reasoning, calls, drafts=drafts, one_call=one_call)


def _drafts(spec: ToolParserSpec, tools: Sequence[Tool], plugin: str) -> Callable[[], Stage] | None:
    """What makes a parser of calls in reasoning."""
    make, what = spec.in_reasoning, f"tool parser {spec.name}"
    if make is None:
        return None

    def made() -> Stage:
        with calling(plugin, what):
            return Stage(make(tools), plugin, what)

    return made


def active_tools(request: Request) -> tuple[Tool, ...]:
    """The tools that the model may call."""
    if request.tool_choice.mode == "none" or request.messages is None:
        return ()
    return request.tools


def _thinks(request: Request) -> bool:
    """Whether the reply may begin with reasoning: raw prompts are continued as they are."""
    return request.messages is not None
