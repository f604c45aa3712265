"""Types for the options of samplers and logits processors that name tokens.

Options are checked where the tokenizer is, so a request may write words, and ids outside of the
vocabulary are refused with 400. The core gets ids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, ValidationInfo

from budmlx.errors import InvalidRequestError

MAX_TEXT = 4096
"""Characters of a text that stands for tokens."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The vocabulary of the model that a request is for.

    size: ids are below it. encode: the token ids of a text, without special tokens around it.
    """

    size: int
    encode: Callable[[str], Sequence[int]]


def vocabulary_of(info: ValidationInfo) -> Vocabulary | None:
    """The vocabulary, for a validator of a plugin's own; None outside of an engine."""
    context = info.context
    return context.get("vocabulary") if isinstance(context, dict) else None


def _one(value: Any, info: ValidationInfo) -> int:
    if not isinstance(value, str):
        return _checked(value, info)
    ids = _encoded(value, info)
    if len(ids) != 1:
        raise ValueError(f"{value!r} is {len(ids)} tokens of this model; it must be a single one")
    return ids[0]


def _several(value: Any, info: ValidationInfo) -> tuple[int, ...]:
    if isinstance(value, str):
        return tuple(_encoded(value, info))
    if not isinstance(value, list | tuple):
        raise ValueError("must be a text or a list of token ids")
    return tuple(_one(each, info) for each in value)


def _checked(value: Any, info: ValidationInfo) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("must be a token id or a text")
    vocabulary = vocabulary_of(info)
    if value < 0 or (vocabulary is not None and value >= vocabulary.size):
        size = "" if vocabulary is None else f" of {vocabulary.size} tokens"
        raise ValueError(f"{value} is outside of the vocabulary{size}")
    return value


def _encoded(text: str, info: ValidationInfo) -> Sequence[int]:
    vocabulary = vocabulary_of(info)
    if vocabulary is None:
        raise ValueError("a text needs the tokenizer of a model; give token ids")
    if len(text) > MAX_TEXT:
        raise ValueError(f"a text may have {MAX_TEXT} characters")
    try:
        return vocabulary.encode(text)
    except InvalidRequestError as error:
        raise ValueError(error.message) from error


TokenId = Annotated[int, BeforeValidator(_one)]
"""One token: an id of the vocabulary, or a text that is a single token."""

TokenIds = Annotated[tuple[int, ...], BeforeValidator(_several)]
"""Several tokens: a text, or a list whose items are as those of `TokenId`."""
