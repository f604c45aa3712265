"""The replies of `POST /v1/completions`: whole, and in chunks of the same shape."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from budmlx.server.dialects.openai.reply import NewText, ReplyBuilder, TimeInfo, WireUsage
from budmlx.server.dialects.openai.sampling import GenerationRequest
from budmlx.types import (
    CacheExplanation,
    ChoiceFinished,
    Completion,
    FinishReason,
    TokenLogprob,
)


class TextLogprobs(Struct, frozen=True):
    """The tokens of a choice, or of a piece of it.

    top_logprobs: the most likely tokens at each place, the one that was drawn included.
    text_offset: where in the choice's text each token begins, in characters.
    """

    tokens: tuple[str, ...]
    token_logprobs: tuple[float, ...]
    top_logprobs: tuple[dict[str, float], ...]
    text_offset: tuple[int, ...]


class TextChoice(Struct, frozen=True):
    """One choice, or a piece of it."""

    index: int
    text: str
    finish_reason: FinishReason | None = None
    logprobs: TextLogprobs | None = None


class TextCompletion(Struct, frozen=True):
    """A whole reply, or one event of a stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: tuple[TextChoice, ...]
    usage: WireUsage | UnsetType | None = UNSET
    time_info: TimeInfo | UnsetType = UNSET
    service_tier: str | UnsetType = UNSET
    warnings: Sequence[str] | UnsetType = UNSET
    cached: bool | UnsetType = UNSET
    cache_explanation: CacheExplanation | UnsetType = UNSET


class TextReply(ReplyBuilder[TextChoice]):
    """Encodes the reply to one request for completions.

    logprobs: report them. echoes: texts of the prompts, if they are to precede the completions;
    they are set once the model is loaded.
    """

    def __init__(
        self,
        body: GenerationRequest,
        warnings: list[str],
        *,
        logprobs: bool,
    ):
        super().__init__(body, "cmpl", warnings)
        self._n = body.n
        self.echoes: Sequence[str] = ()
        self._logprobs = logprobs
        self._offsets: dict[int, _Offsets] = {}

    def _first(self) -> Iterable[TextChoice]:
        """The prompts, if they are to be echoed: a chunk for each choice."""
        return (
            TextChoice(prompt * self._n + number, echo)
            for prompt, echo in enumerate(self.echoes)
            for number in range(self._n)
        )

    def _whole(self, done: Completion, **fields: Any) -> TextCompletion:
        choices = tuple(
            TextChoice(
                number,
                (self.echoes[number // self._n] if self.echoes else "") + choice.text,
                choice.finish_reason,
                self._wire_logprobs(number, choice.text, choice.logprobs),
            )
            for number, choice in enumerate(done.choices)
        )
        return TextCompletion(object="text_completion", choices=choices, **fields)

    def _chunk_of(self, choices: tuple[TextChoice, ...], **fields: Any) -> TextCompletion:
        return TextCompletion(object="text_completion", choices=choices, **fields)

    def _delta(self, event: NewText) -> TextChoice:
        # A raw prompt has neither tools nor a template that lets the model think.
        text = getattr(event, "text", "")
        logprobs = self._wire_logprobs(event.choice, text, getattr(event, "logprobs", ()))
        return TextChoice(event.choice, text, None, logprobs)

    def _end(self, event: ChoiceFinished) -> TextChoice:
        return TextChoice(event.choice, "", event.reason)

    def _wire_logprobs(
        self, choice: int, text: str, entries: Sequence[TokenLogprob]
    ) -> TextLogprobs | None:
        if not self._logprobs:
            return None
        offsets = self._offsets.setdefault(choice, _Offsets())
        return TextLogprobs(
            tuple(map(_token, entries)),
            tuple(entry.logprob for entry in entries),
            tuple(map(_best, entries)),
            tuple(offsets.next(entry, text) for entry in entries),
        )


def _token(entry: TokenLogprob) -> str:
    """A token's text; its bytes where it is no text alone, so that such tokens stay distinct."""
    text = _text(entry)
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in entry.bytes) if text is None else text


def _best(entry: TokenLogprob) -> dict[str, float]:
    """The most likely tokens at a place and the one that was drawn, which clients look up."""
    # Of tokens with the same text, the most likely one stays, and before it the drawn one.
    return {_token(each): each.logprob for each in (*reversed(entry.top), entry)}


def _text(entry: TokenLogprob) -> str | None:
    """A token's text; None for one with parts of characters."""
    try:
        return entry.bytes.decode()
    except UnicodeDecodeError:
        return None


class _Offsets:
    """Counts the characters before each token of one choice."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._count = 0
        self._first = True

    def next(self, entry: TokenLogprob, text: str) -> int:
        """The offset at which a token begins. text: the one that it is part of."""
        if self._first and entry.bytes.startswith(b" ") and not text.startswith(" "):
            self._count = -1  # Some tokenizers' first word has a space that texts begin without.
        self._first = False
        own, begin = _text(entry), self._count
        self._count += len(self._decoder.decode(entry.bytes))
        # What whole characters follow may complete a broken one, which stands before them.
        place = begin if own is None else self._count - len(own)
        return max(place, 0)
