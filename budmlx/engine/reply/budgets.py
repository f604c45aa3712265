"""Budgets of reasoning: what the core needs to end the reasoning of a model.

A chat template without levels of effort, or without a switch for thinking, gets a budget instead.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import cached_property

from budmlx.engine.reply.parsers import Parsers, active_tools
from budmlx.engine.reply.thinking import Thinking, thinks_at
from budmlx.engine.text.tokenizer import Tokenizer, fallback_byte
from budmlx.errors import InvalidRequestError
from budmlx.plugins.parsing import ReasoningMarkup
from budmlx.protocol import ReasoningBudget
from budmlx.types import MAX_BIAS, Request, SamplingParams

EFFORT_BUDGETS = {"none": 0, "minimal": 1024, "low": 1024, "medium": 4096}
"""Tokens of reasoning for the levels of effort that have a limit."""

# The characters that vocabularies write for white space.
_WRITTEN_SPACE = str.maketrans({"\u0120": " ", "\u2581": " ", "\u010a": "\n"})


def implied_budget(request: Request, parsers: Parsers) -> tuple[int | None, list[str]]:
    """The budget that variables of the chat template stand for which that does not read.

    Returns also the names of the variables that have their effect by it.
    """
    if request.messages is None or request.sampling.max_reasoning_tokens is not None:
        return None, []
    if markup_of(parsers) is None:
        return None, []
    template = parsers.tokenizer.template(tools=bool(active_tools(request)))
    variables = request.chat_template_kwargs
    budget, names = None, []
    effort, thinks = variables.get("reasoning_effort"), variables.get("enable_thinking")
    asks_for_both = effort == "none" and thinks is True
    if not (template.efforts or asks_for_both) and effort in EFFORT_BUDGETS:
        budget = EFFORT_BUDGETS[effort]
        names.append("reasoning_effort")
    if thinks is False and "enable_thinking" not in template.names:
        budget = 0
        names.append("enable_thinking")
    return budget, names


def with_budget(request: Request, parsers: Parsers) -> Request:
    """The request with the budget that its variables stand for; see `implied_budget`."""
    budget, _ = implied_budget(request, parsers)
    if budget is None:
        return request
    return replace(request, sampling=replace(request.sampling, max_reasoning_tokens=budget))


def markup_of(parsers: Parsers) -> ReasoningMarkup | None:
    """The texts around a model's reasoning; None if they are not known."""
    if parsers.reasoning is None:
        return None
    spec = parsers.reasoning.value
    if spec.markup is None and spec.begin and spec.end:
        return ReasoningMarkup((spec.begin,), (spec.end,), (spec.end,))
    return spec.markup


class Budgets:
    """Makes the budgets of rows of one model. eos_ids: ids that end a reply."""

    def __init__(self, parsers: Parsers, eos_ids: Collection[int]):
        self._parsers = parsers
        self._tokenizer = parsers.tokenizer
        self._markup = markup_of(parsers)
        self._eos_ids = frozenset(eos_ids)

    def of(self, request: Request, tail: str, tokens: int) -> ReasoningBudget | None:
        """The budget of a request's rows; None if there will be no reasoning to end.

        tail: the end of the prompt. tokens: of reasoning, at most.

        Raises:
            InvalidRequestError: `logit_bias` bans what ends the reasoning.
            PluginError: the parser failed.
        """
        markup = self._markup
        if markup is None or request.messages is None:
            return None
        assert self._parsers.reasoning is not None
        begun = thinks_at(self._parsers.reasoning, tail)
        if not (begun or markup.anywhere) and tail.rstrip().endswith(markup.ends):
            return None
        closings = self._closings(request, markup, self._parsers.thinking(request, tail))
        if not all(closings) or self._eos_ids.intersection(*closings):
            return None
        _check_bias(request.sampling, closings)
        return ReasoningBudget(
            tokens=tokens,
            begun=begun,
            begins=list(markup.begins),
            ends=list(markup.ends),
            anywhere=markup.anywhere,
            closings=closings,
            texts=self._texts,
        )

    def _closings(
        self, request: Request, markup: ReasoningMarkup, thinking: Thinking | None
    ) -> list[list[int]]:
        tools = bool(active_tools(request))
        texts: Sequence[str] = (tools and markup.closings_with_tools) or markup.closings
        if len(texts) == 1:
            shown = self._tokenizer.template(tools=tools).reasoning_end()
            texts = [shown if shown.strip() in markup.ends else texts[0]]
        if thinking is not None:
            texts = [_with_newlines(text, thinking.newlines) for text in texts]
        return [_ids(self._tokenizer, text) for text in texts]

    @cached_property
    def _texts(self) -> dict[int, str]:
        assert self._markup is not None
        return marker_texts(self._tokenizer, (*self._markup.begins, *self._markup.ends))


def _with_newlines(text: str, most: int) -> str:
    """The text with at most so many line breaks at its end."""
    bare = text.rstrip("\n")
    return text[: len(bare) + most]


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of text that stands within other text: none is for a beginning."""
    lead = tokenizer.encode("a", add_special=False)
    whole = tokenizer.encode(f"a{text}", add_special=False)
    if whole[: len(lead)] == lead:
        return whole[len(lead) :]
    return tokenizer.encode(text, add_special=False)


def _check_bias(sampling: SamplingParams, closings: Sequence[Sequence[int]]) -> None:
    banned = {token for token, value in sampling.logit_bias if value <= -MAX_BIAS}
    if banned.intersection(token for closing in closings for token in closing):
        raise InvalidRequestError(
            "logit_bias bans a token that ends the reasoning, which max_reasoning_tokens needs.",
            param="logit_bias",
        )


def marker_texts(tokenizer: Tokenizer, markers: Sequence[str]) -> dict[int, str]:
    """The text of each token that may be a part of a marker, or hold one, or is white space."""
    places = [(m, at) for m in markers for at in range(1, len(m))]
    beginnings = tuple({m[:at] for m, at in places} | set(markers))
    ends = tuple({m[at:] for m, at in places} | set(markers))
    inside = {m[at:to] for m in markers for at in range(len(m)) for to in range(at + 1, len(m) + 1)}
    found = {}
    for token, token_id in tokenizer.backend.get_vocab().items():
        byte = fallback_byte(token)
        text = token.translate(_WRITTEN_SPACE) if byte is None else chr(byte)
        if (
            text in inside
            or text.endswith(beginnings)
            or text.startswith(ends)
            or text.isspace()
            or any(marker in text for marker in markers)
        ):
            found[token_id] = text
    return found
