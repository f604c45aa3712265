"""From what callers ask to what the core takes: the way of every request before it runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace

from budmlx.engine.filters import transformed
from budmlx.engine.images import Images, Prompt
from budmlx.engine.messages import check_prefix, check_results
from budmlx.engine.parsers import Parsers, active_tools
from budmlx.engine.prompt import render
from budmlx.engine.tokenizer import Tokenizer
from budmlx.engine.tokens import Encoding, encoding
from budmlx.engine.worker import Procedure
from budmlx.errors import ContextLengthError, InvalidRequestError
from budmlx.plugins.manager import Plugins
from budmlx.types import Message, ModelInfo, Request

# Prompts with more characters than this are tokenized off the event loop.
INLINE_CHARACTERS = 16_384


# Of longer conversations it is not told in which message the reuse of KV ended.
MAX_EXPLAINED = 256
INSTRUCTIONS = ("system", "developer")


class Preparation:
    """What happens to requests before they run. Thread-safe."""

    def __init__(
        self,
        plugins: Plugins,
        tokenizer: Tokenizer,
        parsers: Parsers,
        images: Images,
        info: ModelInfo,
    ):
        self._transforms = plugins.added("add_message_transforms")
        self._tokenizer = tokenizer
        self._parsers = parsers
        self._images = images
        self._info = info

    def is_quick(self, request: Request) -> bool:
        """Whether `prepared` does not block."""
        short = request.characters <= INLINE_CHARACTERS
        return short and not self._transforms and not request.shows_images

    def fetched(self, request: Request) -> Procedure[Request]:
        """The request with everything that it refers to. Raises InvalidRequestError."""
        return (yield from self._images.fetched(request))

    def prepared(self, request: Request) -> tuple[Request, Prompt]:
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

    def template(self, request: Request) -> Encoding:
        """The prompt that a chat becomes, however long it is."""
        if request.messages is None:
            raise InvalidRequestError("There must be messages to render.", param="messages")
        return encoding(self._tokenizer, self._rendered(request)[1].ids)

    def _rendered(self, request: Request) -> tuple[Request, Prompt]:
        request = transformed(request, self._transforms)
        self._parsers.check(request)
        if request.messages is None:
            raw: str | Sequence[int] = request.prompt or ()
            if isinstance(raw, str):
                raw = self._tokenizer.encode(raw, add_special=True)
            return request, Prompt(list(raw))
        check_results(request.messages)
        check_prefix(request.messages)
        request, shown = self._images.prepared(request)
        messages = request.messages or ()
        ids = self._render(request, messages)
        prompt = self._images.placed(ids, shown)
        if not shown and self._info.needs_checkpoints:
            prompt = replace(prompt, checkpoints=self._checkpoints(request, messages, ids))
        if not shown and request.explain_cache and len(messages) <= MAX_EXPLAINED:
            counts = range(1, len(messages) + 1)
            prompt = replace(prompt, ends=self._common_with(request, messages, ids, counts))
        return request, prompt

    def _render(self, request: Request, messages: Sequence[Message]) -> list[int]:
        return render(
            self._tokenizer,
            messages,
            request.chat_template_kwargs,
            tools=active_tools(request),
            placeholder=self._images.placeholder,
        )

    def _checkpoints(
        self, request: Request, messages: Sequence[Message], ids: Sequence[int]
    ) -> tuple[int, ...]:
        """Where the instructions end, and where the last message begins."""
        first = next((i for i, m in enumerate(messages) if m.role not in INSTRUCTIONS), 0)
        counts = {first, len(messages) - 1} - {0, len(messages)}
        places = self._common_with(request, messages, ids, sorted(counts))
        return tuple(sorted({*places} - {0}))

    def _common_with(
        self,
        request: Request,
        messages: Sequence[Message],
        ids: Sequence[int],
        counts: Iterable[int],
    ) -> tuple[int, ...]:
        """How far the prompt agrees with that of its first so many messages, for each count."""
        places: list[int] = []
        for count in counts:
            # Templates refuse some beginnings of conversations that they take as a whole.
            with suppress(InvalidRequestError):
                places.append(_common(self._render(request, messages[:count]), ids))
        return tuple(places)

    def _check(self, ids: list[int], param: str) -> None:
        info = self._info
        if not ids:
            raise InvalidRequestError("The prompt has no tokens.", param=param)
        if len(ids) >= info.context_length:
            raise ContextLengthError(
                f"The prompt has {len(ids)} tokens; {info.name} takes at most "
                f"{info.context_length} together with the completion. Shorten the {param}.",
                param=param,
            )
        # The largest and smallest id decide, so that the common case is fast.
        if min(ids) < 0 or max(ids) >= info.vocab_size:
            raise InvalidRequestError(
                f"A token id is outside the vocabulary of {info.vocab_size} tokens.", param=param
            )


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
