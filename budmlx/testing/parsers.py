"""Contract checks of tool-call parsers and reasoning parsers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from budmlx.plugins.parsing import (
    Call,
    CallArguments,
    CallBegun,
    Content,
    OutputParser,
    Piece,
    ReasoningParserSpec,
    Thought,
    Tool,
    ToolParserSpec,
)


def require(promise: bool, broken: str) -> None:
    """Raise AssertionError with the text `broken` unless `promise`, also under `python -O`."""
    if not promise:
        raise AssertionError(broken)


def check_tool_parser(
    spec: ToolParserSpec,
    text: str,
    *calls: Call,
    content: str = "",
    tools: Sequence[Tool] = (),
) -> None:
    """Check what a parser makes of a text, whole and however it is cut, and of its beginnings.

    With arguments in pieces, calls that turn out to be broken may show besides `calls`, and an
    id that comes after the arguments is missing.
    """
    whole = _check_cuts(partial(spec.make, tools, False), text)
    require(whole.calls == list(calls), f"the calls are {whole.calls}")
    require(whole.content == content, f"the content is {whole.content!r}")
    pieces = _check_cuts(partial(spec.make, tools, True), text)
    same = vars(pieces) == vars(whole) or _without_late_ids(pieces, whole)
    require(same or len(pieces.calls) > len(calls), f"in pieces it gives {vars(pieces)}")
    for call in calls:
        arguments = json.loads(call.arguments)
        require(isinstance(arguments, dict), f"the arguments of {call.name} are no object")
    if syntax := spec.syntax:
        for tool in tools:
            first = syntax.open + syntax.call(tool).begin
            require(first.startswith(syntax.trigger), "calls do not begin with the trigger")


def check_reasoning_parser(
    spec: ReasoningParserSpec, text: str, *, thought: str, content: str, prompt: str = ""
) -> None:
    """Like `check_tool_parser`. prompt: the end of the prompt."""
    found = _check_cuts(partial(spec.make, prompt), text)
    require(found.thought == thought, f"the reasoning is {found.thought!r}")
    require(found.content == content, f"the content is {found.content!r}")


class Found:
    """The output of a parser for a text that was pushed in pieces."""

    def __init__(self, parser: OutputParser, pieces: Sequence[str]):
        self.content = self.thought = ""
        self.calls: list[Call] = []
        text = "".join(pieces)
        for number, piece in enumerate(pieces, 1):
            for made in parser.push(piece, number == len(pieces)):
                self._take(made, text)

    def _take(self, piece: Piece, text: str) -> None:
        if isinstance(piece, Content | Thought):
            place = text[piece.start : piece.start + len(piece.text)]
            require(place == piece.text, f"{piece} is not where it says")
        if isinstance(piece, Content):
            self.content += piece.text
        elif isinstance(piece, Thought):
            self.thought += piece.text
        elif isinstance(piece, CallArguments):
            begun = self.calls.pop()
            self.calls.append(Call(begun.name, begun.arguments + piece.text, begun.id))
        else:
            arguments = "" if isinstance(piece, CallBegun) else piece.arguments
            self.calls.append(Call(piece.name, arguments, piece.id))


def _without_late_ids(pieces: Found, whole: Found) -> bool:
    """Whether the two differ only in ids that the first lacks."""
    known = [
        replace(call, id=None) if made.id is None else call
        for call, made in zip(whole.calls, pieces.calls, strict=False)
    ]
    return vars(pieces) == {**vars(whole), "calls": known + whole.calls[len(known) :]}


def _check_cuts(make: Callable[[], OutputParser], text: str) -> Found:
    """Parse a text whole, in two parts at every place, and in small pieces; then only begun."""
    whole = Found(make(), [text])
    cuts = [[text[:cut], text[cut:]] for cut in range(len(text) + 1)]
    for size in (1, 2, 3, 7):
        cuts.append([text[start : start + size] for start in range(0, len(text), size)] + [""])
    for pieces in cuts:
        found = Found(make(), pieces)
        same = vars(found) == vars(whole)
        require(same, f"{pieces} give {vars(found)}, the whole text gives {vars(whole)}")
    for cut in range(len(text)):
        Found(make(), [text[:cut]])
    return whole
