"""Thinking: the reasoning that may stand before a form or a call, as a parser reads it."""

from __future__ import annotations

from dataclasses import dataclass

from budmlx.plugins.boundary import calling
from budmlx.plugins.manager import Owned
from budmlx.plugins.parsing import Content, ReasoningParserSpec, Thought

MOST_NEWLINES = 2
"""Newlines after reasoning that models write and parsers take away."""


@dataclass(frozen=True, slots=True)
class Thinking:
    """Reasoning between two texts.

    begun: the prompt ends inside of it. newlines: how many after it the parser takes away.
    """

    begin: str
    end: str
    begun: bool
    newlines: int


def thinking_before(spec: Owned[ReasoningParserSpec], tail: str) -> Thinking | None:
    """The reasoning that a reply may begin with; None if there is no text that ends it.

    tail: the end of the prompt. A template that closes the block wants no reasoning.

    Raises:
        PluginError: the parser failed.
    """
    begin, end = spec.value.begin, spec.value.end
    if not begin or not end or tail.rstrip().endswith(end):
        return None
    begun = thinks_at(spec, tail)
    before = f"{'' if begun else begin}x{end}"
    counts = range(MOST_NEWLINES, 0, -1)
    taken = (n for n in counts if _content(spec, tail, f"{before}{n * chr(10)}y") == "y")
    return Thinking(begin, end, begun, next(taken, 0))


def thinks_at(spec: Owned[ReasoningParserSpec], tail: str) -> bool:
    """Whether a prompt ends inside of reasoning. Raises PluginError."""
    with calling(spec.plugin, f"reasoning parser {spec.value.name}"):
        pieces = spec.value.make(tail).push("x", True)
        return any(isinstance(piece, Thought) for piece in pieces)


def _content(spec: Owned[ReasoningParserSpec], tail: str, text: str) -> str:
    with calling(spec.plugin, f"reasoning parser {spec.value.name}"):
        pieces = spec.value.make(tail).push(text, True)
        return "".join(piece.text for piece in pieces if isinstance(piece, Content))
