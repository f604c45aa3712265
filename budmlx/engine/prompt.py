"""Tokenized prompts."""

from __future__ import annotations

from dataclasses import dataclass

from budmlx.protocol import Image


@dataclass(frozen=True, slots=True)
class TokenizedPrompt:
    """Token ids for the model, and the pictures whose placeholders are among them.

    checkpoints: places, in ascending order, up to which other prompts may be the same.
    retained: places up to which it is to be kept for so many seconds.
    ends: where each message ends, if the request wants an explanation of its reuse.
    """

    ids: list[int]
    images: tuple[Image, ...] = ()
    checkpoints: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()
    retained: tuple[tuple[int, float], ...] = ()
