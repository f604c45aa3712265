"""Preparation: from a request to the tokenized prompt that the core takes.

The costs of a prompt are its characters, since the time to render it grows with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import Any

from budmlx.engine.images.images import Images, KeyedImage
from budmlx.engine.procedures import Procedure, off_loop
from budmlx.engine.prompt import TokenizedPrompt
from budmlx.engine.reply.budgets import with_budget
from budmlx.engine.reply.parsers import Parsers, active_tools
from budmlx.engine.request.defaults import RequestDefaults
from budmlx.engine.request.places import Places, farthest
from budmlx.engine.request.render import check_prefix, check_results, render
from budmlx.engine.request.transforms import transformed
from budmlx.engine.text.control_tokens import LONG_TEXT
from budmlx.engine.text.infill import Infill
from budmlx.engine.text.tokenizer import Tokenizer
from budmlx.errors import ContextLengthError, InvalidRequestError
from budmlx.plugins.manager import Plugins
from budmlx.types import Message, ModelInfo, Request, TextPart

# Characters that may be rendered to find where messages end. Explanations do not name the
# messages beyond them.
MAX_EXPLAINED = 1_048_576
# Costs of a message, and of a JSON value, besides their own characters.
PER_MESSAGE = 64
PER_VALUE = 8


class Preparation:
    """Prepares requests for the core. Thread-safe."""

    def __init__(
        self,
        plugins: Plugins,
        tokenizer: Tokenizer,
        parsers: Parsers,
        images: Images,
        info: ModelInfo,
        defaults: RequestDefaults,
    ):
        self._transforms = plugins.added("add_message_transforms")
        self._calls = plugins.hanging
        self._tokenizer = tokenizer
        self._infill = Infill.of(tokenizer)
        self._parsers = parsers
        self._images = images
        self._info = info
        self._defaults = defaults

    def is_quick(self, request: Request) -> bool:
        """Whether `prepared` does not block."""
        if self._transforms or request.shows_images:
            return False
        messages = len(request.messages or ())
        times = 1 + 3 * self._info.needs_checkpoints + messages * request.explain_cache
        times += len(request.breakpoints)
        room = LONG_TEXT // times - len(self._defaults.system_prompt)
        return not exceeds(_request_costs(request), room)

    def run(self, request: Request) -> Procedure[tuple[Request, TokenizedPrompt]]:
        """What `prepared` returns, for a request with everything that it refers to."""
        if self._defaults.sampling:
            request = self._defaults.sampled(request)
        if request.shows_images:
            request = yield from self._images.fetched(request)
        if self.is_quick(request):
            return self.prepared(request)
        return (yield from off_loop(partial(self.prepared, request)))

    def prepared(self, request: Request) -> tuple[Request, TokenizedPrompt]:
        """The request as it runs, and its prompt.

        Raises:
            InvalidRequestError: something of it cannot be used, an id is outside the
                vocabulary, or the prompt is empty.
            ContextLengthError: there is no room for a single token of completion.
            PluginError: a plugin failed.
        """
        request, prompt = self._rendered(request)
        self._check(prompt.ids, "prompt" if request.messages is None else "messages")
        return request, prompt

    def template(self, request: Request) -> Procedure[list[int]]:
        """The ids of the prompt that a chat becomes, however long it is."""
        if request.shows_images:
            request = yield from self._images.fetched(request)
        if request.messages is None:
            raise InvalidRequestError("There must be messages to render.", param="messages")
        return self._rendered(request, places=False)[1].ids

    def _rendered(
        self, request: Request, *, places: bool = True
    ) -> tuple[Request, TokenizedPrompt]:
        """The request without pictures, and its prompt. places: with those of checkpoints."""
        if self._transforms:
            request = transformed(request, self._transforms, self._calls)
        self._parsers.check(request)
        if request.chat_template_kwargs:
            request = with_budget(request, self._parsers)
        if request.messages is None:
            if request.suffix is not None:
                request = self._infilling(request)
            raw: str | Sequence[int] = request.prompt or ()
            if isinstance(raw, str):
                raw = self._tokenizer.encode(raw, add_special=True)
            return request, TokenizedPrompt(list(raw))
        if request.suffix is not None:
            raise InvalidRequestError(
                "`suffix` belongs to a prompt of text, not to messages.", param="suffix"
            )
        check_results(request.messages)
        check_prefix(request.messages)
        shown: Sequence[KeyedImage] = ()
        if request.shows_images:
            request, shown = self._images.prepared(request)
        messages = request.messages or ()
        if self._defaults.system_prompt:
            messages = self._defaults.instructed(messages)
        ids = self._render(request, messages)
        prompt = self._images.placed(ids, shown) if shown else TokenizedPrompt(ids)
        if places and not shown and (self._info.needs_checkpoints or request.breakpoints):
            prompt = self._kept(request, messages, ids)
        if not shown and request.explain_cache:
            costs = _beginnings(replace(request, messages=messages))
            affordable = sum(cost <= MAX_EXPLAINED for cost in costs)
            ends = self._places(request, messages, ids).of_ends(affordable)
            prompt = replace(prompt, ends=ends[len(messages) - len(request.messages or ()) :])
        return request, prompt

    def _infilling(self, request: Request) -> Request:
        """A request with a suffix as one for ids, with what ends the text between."""
        if self._infill is None:
            raise InvalidRequestError(
                f"{self._info.name} cannot fill in text before a suffix: its tokenizer has no "
                "tokens for that.",
                param="suffix",
            )
        if not isinstance(request.prompt, str) or request.suffix is None:
            raise InvalidRequestError("`suffix` needs a prompt of text.", param="suffix")
        ids = self._infill.prompt(self._tokenizer, request.prompt, request.suffix)
        sampling = request.sampling
        if not sampling.ignore_eos:
            stops = (*sampling.stop_token_ids, *self._infill.stop_ids)
            sampling = replace(sampling, stop_token_ids=stops)
        return replace(request, prompt=tuple(ids), suffix=None, sampling=sampling)

    def _render(self, request: Request, messages: Sequence[Message]) -> list[int]:
        return render(
            self._tokenizer,
            messages,
            request.chat_template_kwargs,
            tools=[tool for tool in active_tools(request) if not tool.deferred],
            placeholder=self._images.placeholder,
        )

    def _places(self, request: Request, messages: Sequence[Message], ids: list[int]) -> Places:
        return Places(messages, ids, partial(self._render, request))

    def _kept(
        self, request: Request, messages: Sequence[Message], ids: list[int]
    ) -> TokenizedPrompt:
        """The prompt with the places up to which it is to be kept for others."""
        found, states = self._places(request, messages, ids), self._info.needs_checkpoints
        added = len(messages) - len(request.messages or ())  # before what the request counts
        marks = [replace(each, messages=each.messages + added) for each in request.breakpoints]
        retained = found.of_marks(marks if states else farthest(marks))
        if not states:
            return TokenizedPrompt(ids, retained=retained)
        places = {*found.of_turns(self._tokenizer.control), *(place for place, _ in retained)}
        return TokenizedPrompt(ids, (), tuple(sorted(places - {len(ids)})), (), retained)

    def _check(self, ids: list[int], param: str) -> None:
        info = self._info
        if not ids:
            raise InvalidRequestError("The prompt has no tokens.", param=param)
        if len(ids) >= info.context_length:
            error = ContextLengthError(
                f"The prompt has {len(ids)} tokens; {info.name} takes at most "
                f"{info.context_length} together with the completion. Shorten the {param}.",
                param=param,
            )
            error.tokens, error.limit = len(ids), info.context_length
            raise error
        # The largest and smallest id decide, so that the common case is fast.
        if min(ids) < 0 or max(ids) >= info.vocab_size:
            raise InvalidRequestError(
                f"A token id is outside the vocabulary of {info.vocab_size} tokens.", param=param
            )


def _beginnings(request: Request) -> Iterator[int]:
    """The costs of rendering the first message, then also the first two, and so on."""
    frame = sum(_frame_costs(request))
    lengths = accumulate(sum(_message_costs(message)) for message in request.messages or ())
    return accumulate(frame + length for length in lengths)


def _request_costs(request: Request) -> Iterator[int]:
    """The costs of the parts of a prompt, to be added up."""
    if request.messages is None:
        yield len(request.prompt or ()) + len(request.suffix or "")
        return
    yield from _frame_costs(request)
    for message in request.messages:
        yield from _message_costs(message)


def _frame_costs(request: Request) -> Iterator[int]:
    """The costs of the parts of a prompt besides its messages."""
    for tool in request.tools:
        yield from costs([tool.name, tool.description, tool.parameters])
    yield from costs(request.chat_template_kwargs)


def _message_costs(message: Message) -> Iterator[int]:
    """The costs of the parts of a message."""
    yield PER_MESSAGE
    yield from costs([message.name, message.tool_call_id, message.reasoning])
    parts = (message.content,) if isinstance(message.content, str) else message.content
    for part in parts:
        yield from costs(part.text if isinstance(part, TextPart) else part)
    for call in message.tool_calls:
        yield from costs([call.id, call.name, call.arguments])


def costs(value: Any) -> Iterator[int]:
    """The costs of the parts of a JSON value, to be added up."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += value.keys()
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value
        yield PER_VALUE + _length(value)


def exceeds(costs: Iterable[int], limit: int) -> bool:
    """Whether the sum is more than the limit. Stops as soon as it is certain."""
    return any(total > limit for total in accumulate(costs))


def _length(value: Any) -> int:
    """Characters of a value, without those of the values inside of it."""
    if isinstance(value, int):
        return value.bit_length() // 3
    return len(value) if isinstance(value, str) else 0
