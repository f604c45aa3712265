"""Family: the declaration of a tool-call format and of the models that use it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from budmlx.builtin.tool_parsers.scanner import CallScanner, Form, calls_in_reasoning
from budmlx.plugins.parsing import CallSyntax, ModelTraits, Tool, ToolParserSpec

_TOKEN = re.compile(r"<[^<>]+>|\[[^\[\]]+\]")


@dataclass(frozen=True, slots=True)
class Family:
    """A format of tool calls.

    signs: texts in a chat template, or tokens, of which each shows that a model uses it.
    syntax: how its calls can be forced, for a model.
    visible: texts of the format besides the form's own that may be control tokens.
    in_reasoning: a call in reasoning counts; otherwise the format itself tells them apart.
    """

    name: str
    form: Form
    signs: tuple[str, ...]
    syntax: Callable[[ModelTraits], CallSyntax | None] = lambda model: None
    visible: tuple[str, ...] = ()
    in_reasoning: bool = True

    def fits(self, model: ModelTraits) -> bool:
        """Whether a model writes its calls so. Tokens count if the template knows tools."""
        tokens = model.tokens if knows_tools(model) else ()
        return any(sign in model.template or sign in tokens for sign in self.signs)

    def spec(self, model: ModelTraits) -> ToolParserSpec:
        """The specification for the engine, for a model of the family."""
        form = self.form
        markers = dict.fromkeys((*form.openers, *form.ends, *form.closers, *self.visible))
        return ToolParserSpec(
            self.name,
            partial(CallScanner, form),
            visible=tuple(filter(_TOKEN.fullmatch, markers)),
            syntax=self.syntax(model),
            in_reasoning=partial(calls_in_reasoning, form) if self.in_reasoning else None,
        )


def knows_tools(model: ModelTraits) -> bool:
    """Whether the chat template writes tools into the prompt."""
    return "tools" in model.template


def json_arguments(tool: Tool) -> str:
    """The Lark expression of arguments that are written as JSON."""
    schema = {"type": "object", **tool.parameters}
    return f"%json {json.dumps(schema)}"
