"""Infill: prompts for the text between two others, for models that were trained for that."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self

from budmlx.engine.text.tokenizer import Tokenizer, check_text

PREFIX_FIRST = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"),
    ("<\uff5cfim\u2581begin\uff5c>", "<\uff5cfim\u2581hole\uff5c>", "<\uff5cfim\u2581end\uff5c>"),
    ("\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>"),
)
"""Tokens before the prefix, before the suffix and before the middle."""
SUFFIX_FIRST = (
    ("<[fim-suffix]>", "<[fim-prefix]>", "<[fim-middle]>"),
    ("[SUFFIX]", "[PREFIX]", ""),
)
"""Tokens before the suffix, before the prefix and before the middle, if there is one."""
ENDS = (
    *("<|endoftext|>", "<|end_of_text|>", "<|file_separator|>", "\u2581<EOT>"),
    *("<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"),
    *("<fim_pad>", "<repo_name>", "<file_sep>", "<fim-pad>", "<[fim-pad]>"),
)
"""Tokens with which models end a middle, of which not all are their ends of replies."""


@dataclass(frozen=True, slots=True)
class Infill:
    """The tokens with which a tokenizer asks for the middle of a text.

    first, second: before the two texts. middle: before what is to be written, if there is such a
    token. suffix_first: the text that follows comes first. stop_ids: what ends the middle.
    """

    first: int
    second: int
    middle: int | None
    suffix_first: bool
    stop_ids: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Self | None:
        """Those of a tokenizer; None if it has none."""
        for names, suffix_first in _forms():
            ids = _known(tokenizer, filter(None, names))
            if len(ids) == sum(map(bool, names)):
                first, second, *middle = ids
                stops = tuple(sorted({*ids, *_known(tokenizer, ENDS)}))
                return cls(first, second, middle[0] if middle else None, suffix_first, stops)
        return None

    def prompt(self, tokenizer: Tokenizer, prefix: str, suffix: str) -> list[int]:
        """Token ids of a prompt, in whose texts nothing is a control token.

        Raises:
            InvalidRequestError: a text holds a lone surrogate.
        """
        check_text(prefix, "prompt")
        check_text(suffix, "suffix")
        texts = (suffix, prefix) if self.suffix_first else (prefix, suffix)
        one, other = map(tokenizer.control.encode_literal, texts)
        middle = [] if self.middle is None else [self.middle]
        return [*tokenizer.prefix_ids, self.first, *one, self.second, *other, *middle]


def _known(tokenizer: Tokenizer, names: Iterable[str]) -> list[int]:
    """The ids of those tokens that there are."""
    ids = map(tokenizer.backend.token_to_id, names)
    return [token_id for token_id in ids if token_id is not None]


def _forms() -> Iterator[tuple[tuple[str, str, str], bool]]:
    yield from ((names, False) for names in PREFIX_FIRST)
    yield from ((names, True) for names in SUFFIX_FIRST)
