"""The requests and responses of tokenize, detokenize and apply_template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import UNSET, Struct, UnsetType
from pydantic import Field

from budmlx.engine.text.encoding import Encoding
from budmlx.server.dialects.openai.body import Body
from budmlx.server.dialects.openai.messages import Int


class TokenizeRequest(Body):
    """Raw text. add_special_tokens: begin with what the model expects there, such as `<s>`."""

    prompt: str
    add_special_tokens: bool = True


class DetokenizeRequest(Body):
    """Token ids."""

    tokens: Annotated[list[Int], Field(strict=True)]


class Tokens(Struct, frozen=True):
    """Token ids, the text that each stands for, and what the model takes at most.

    prompt: the text of all of them, where the request did not bring it.
    """

    tokens: tuple[int, ...]
    token_strs: tuple[str, ...]
    count: int
    max_model_len: int
    prompt: str | UnsetType = UNSET
    warnings: Sequence[str] | UnsetType = UNSET


class Text(Struct, frozen=True):
    """Text of token ids, control tokens included."""

    prompt: str
    warnings: Sequence[str] | UnsetType = UNSET


def tokens(
    found: Encoding, context_length: int, warnings: Sequence[str], *, with_text: bool
) -> Tokens:
    """The response for an encoding."""
    return Tokens(
        found.ids,
        found.pieces,
        len(found.ids),
        context_length,
        found.text if with_text else UNSET,
        warnings or UNSET,
    )
