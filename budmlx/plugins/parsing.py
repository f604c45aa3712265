"""Interfaces of parsers, which find tool calls and reasoning in the text that a model generates.

Parsers read text piece by piece while it is generated and must give the same result however
it is cut. They run in the engine; nothing here loads MLX.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from budmlx.types import Tool as Tool


@dataclass(frozen=True, slots=True)
class ModelTraits:
    """Traits by which model families are told apart.

    template: source of the chat template; the one for tools where there are several.
    tokens: the added tokens of the vocabulary, control tokens among them.
    tool_parser: what tokenizer_config.json names as `tool_parser_type`, one of mlx-lm's; or empty.
    """

    model_type: str
    template: str
    tokens: frozenset[str] = frozenset()
    tool_parser: str = ""


@dataclass(frozen=True, slots=True)
class Content:
    """Text for the client. start: its place in all the text that was pushed."""

    text: str
    start: int


@dataclass(frozen=True, slots=True)
class Thought:
    """Reasoning. start: as in `Content`."""

    text: str
    start: int


@dataclass(frozen=True, slots=True)
class Call:
    """A complete call.

    arguments: the text of a JSON object. id: the one that the model wrote itself, if it did.
    """

    name: str
    arguments: str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class CallBegun:
    """A call whose arguments will follow in pieces. id: as in `Call`, if it came before them."""

    name: str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More text of the arguments of the call that has begun."""

    text: str


Piece = Content | Thought | Call | CallBegun | CallArguments


class OutputParser(Protocol):
    """A parser of the text of one choice."""

    def push(self, text: str, last: bool) -> Sequence[Piece]:
        """Take more text; return the pieces that are now certain.

        A parser drops the white space before a call and after the last one, so it holds white
        space back until it knows what follows.

        last: no more text follows. What looked like the beginning of something and was not
        completed then comes back as `Content`: no text is lost, and none is an error. Of a
        call that breaks after `CallBegun` the pieces stay, and the rest may be dropped.
        """


@runtime_checkable
class FinishedParser(Protocol):
    """An `OutputParser` that takes more for complete where the model ended the text itself."""

    def finish(self) -> None:
        """The model ended its reply: nothing was cut off. Called before the last `push`."""


@dataclass(frozen=True, slots=True)
class CallGrammar:
    """The grammar of one tool call, for constraining it.

    begin, end: literal text around the arguments, control tokens included.
    arguments: a Lark expression of llguidance, such as `%json {...}`, without rules of its
    own. A control token in it stands by its name, outside of quotes: `<name>`.
    """

    begin: str
    arguments: str
    end: str


@dataclass(frozen=True, slots=True)
class CallSyntax:
    """The syntax of a model family's tool calls, for forcing and constraining them.

    trigger: text after which the model has decided to call; `open` and every call's `begin`
    continue from it (it is their common beginning). Empty where only the beginning of a reply
    tells a call.
    open, separator, close: literal text before, between and after the calls of one reply. Of
    `separator` and `close` none may be the beginning of the other.
    call: the grammar of a call of this tool.
    only_forced: replies without calls have markup too, so that a grammar of free text with
    calls in it would get in its way.
    plain: texts among the arguments stand as they are, and whatever their schemas say of their
    form, beside `enum`, is not enforced.
    """

    trigger: str
    call: Callable[[Tool], CallGrammar]
    open: str = ""
    separator: str = ""
    close: str = ""
    only_forced: bool = False
    plain: bool = False


@dataclass(frozen=True, slots=True)
class ToolParserSpec:
    """A tool-call parser for one model family.

    make: a parser for one choice, given the tools of the request and whether arguments are
    wanted in pieces (`CallBegun`, `CallArguments`) where the family's format allows that;
    otherwise, and always where it does not, calls come whole as `Call`.
    visible: control tokens that the parser must see in the text; others are left out.
    syntax: how to force a call; None when the family's calls cannot be forced.
    in_reasoning: a parser for calls that the model writes in its reasoning, before that ends. It
    gives complete calls to these tools, and everything else, mentions of calls too, as `Content`.
    None: calls in reasoning do not count.
    guessed: the model shows no format that is known, so that it may write its calls otherwise. This
    is said when the model is loaded; such calls have no `syntax`.
    """

    name: str
    make: Callable[[Sequence[Tool], bool], OutputParser]
    visible: tuple[str, ...] = ()
    syntax: CallSyntax | None = None
    in_reasoning: Callable[[Sequence[Tool]], OutputParser] | None = None
    guessed: bool = False


@dataclass(frozen=True, slots=True)
class ReasoningMarkup:
    """The texts around blocks of reasoning, for ending one that takes too long.

    begins, ends: texts, any of which begins or ends a block. anywhere: a block may begin after
    other text; otherwise only at the start of a reply.
    closings: texts that end a block so that the answer follows: the first block's, the second's
    and so on; the last one is for all further blocks. closings_with_tools: the same where the
    model may call tools; empty if it makes no difference.
    """

    begins: tuple[str, ...]
    ends: tuple[str, ...]
    closings: tuple[str, ...]
    anywhere: bool = False
    closings_with_tools: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ReasoningParserSpec:
    """A reasoning parser for one model family.

    make: a parser for one choice. Its argument is the end of the prompt as text, since
    prompts may end inside a block of reasoning.
    visible: as in `ToolParserSpec`. begin, end: the text around a block of reasoning, for
    constraining only what comes after it; empty where there is no such text.
    markup: None where `begin` and `end` say all of it.
    """

    name: str
    make: Callable[[str], OutputParser]
    visible: tuple[str, ...] = ()
    begin: str = ""
    end: str = ""
    markup: ReasoningMarkup | None = None
