"""Parsers of a model for tool calls and reasoning, and the readers they make for a request."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from budmlx.config import ModelConfig
from budmlx.engine.reply.answer import Answer, AnswerStops, Verbatim
from budmlx.engine.reply.output_reader import OutputReader, Stage
from budmlx.engine.reply.thinking import Thinking, thinking_before
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
            tokenizer.tool_parser,
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

    def tail(self, request: Request, ids: Sequence[int]) -> str:
        """The end of a prompt as text, control tokens included, with all that a reply continues."""
        count = TAIL_TOKENS
        if request.messages and request.messages[-1].prefix:
            begun = request.messages[-1]
            # No token is shorter than a byte.
            count += len(f"{begun.reasoning or ''}{begun.text}".encode())
        return str(self.tokenizer.backend.decode(list(ids[-count:]), skip_special_tokens=False))

    def thinking(self, request: Request, tail: str) -> Thinking | None:
        """The reasoning that a grammar lets stand before a form or a call. Raises PluginError."""
        if self.reasoning is None or not _thinks(request):
            return None
        return thinking_before(self.reasoning, tail)

    def takes_reasoning(self, request: Request) -> bool:
        """Whether reasoning is taken out of a reply's text, so that stops are not for it."""
        return self.reasoning is not None and _thinks(request) and not _raw(request)

    def answer(self, request: Request, tail: str, stops: AnswerStops | None) -> Answer | None:
        """What takes reasoning out of the text of one choice; None if there is none to take.

        stops: those of the choice.
        """
        if self.reasoning is None or not self.takes_reasoning(request):
            return None
        spec, plugin = self.reasoning.value, self.reasoning.plugin
        what = f"reasoning parser {spec.name}"
        with calling(plugin, what):
            stage = Stage(spec.make(tail), plugin, what)
        verbatim = has_form(request)
        if verbatim and self.thinking(request, tail) is None:
            stage = Stage(Verbatim(), plugin, what)
        return Answer(stage, stops, verbatim=verbatim)

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

    def reader(self, request: Request, answer: Answer | None) -> OutputReader | None:
        """The reader that splits the text of one choice; None if it is all content."""
        calls = drafts = None
        if self.calls is not None and (tools := active_tools(request)):
            spec, plugin = self.calls.value, self.calls.plugin
            what = f"tool parser {spec.name}"
            with calling(plugin, what):
                calls = Stage(spec.make(tools, request.incremental_calls), plugin, what)
            # A forced call comes after the reasoning for sure.
            if answer is not None and request.tool_choice.mode != "required":
                drafts = _drafts(spec, tools, plugin)
        if answer is None and calls is None:
            return None
        return OutputReader(
            answer,
            calls,
            drafts=drafts,
            one_call=not request.parallel_tool_calls,
            new_id=self.tokenizer.template(tools=True).new_call_id,
        )


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
    choice = request.tool_choice
    if choice.mode == "none" or request.messages is None:
        return ()
    if not choice.allowed:
        return request.tools
    return tuple(tool for tool in request.tools if tool.name in choice.allowed)


def has_form(request: Request) -> bool:
    """Whether the whole answer has a form that a grammar ensures."""
    return request.response_format is not None and not active_tools(request)


def _raw(request: Request) -> bool:
    """Whether reasoning stays in the text. It cannot where a form is asked for: that is all."""
    return request.reasoning == "raw" and request.response_format is None


def _thinks(request: Request) -> bool:
    """Whether the reply may begin with reasoning: raw prompts are continued as they are."""
    return request.messages is not None
