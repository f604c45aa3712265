"""Encodings: text, token ids and prompts, for callers that inspect them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from budmlx.engine.text.tokenizer import Tokenizer
from budmlx.errors import InvalidRequestError
from budmlx.types import ModelInfo


@dataclass(frozen=True, slots=True)
class Encoding:
    """Token ids and the text that they stand for.

    text: of all ids, control tokens included. pieces: of each id alone, with a
    replacement character for an incomplete one.
    """

    ids: tuple[int, ...]
    text: str
    pieces: tuple[str, ...]


def encoding(tokenizer: Tokenizer, ids: Sequence[int], text: str | None = None) -> Encoding:
    """The encoding of these ids. text: if it is known already."""
    known = {token_id: tokenizer.token_bytes[token_id] for token_id in set(ids)}
    pieces = tuple(known[token_id].decode(errors="replace") for token_id in ids)
    return Encoding(tuple(ids), decoded(tokenizer, ids) if text is None else text, pieces)


def decoded(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of ids, control tokens included."""
    return str(tokenizer.backend.decode(list(ids), skip_special_tokens=False))


def check_ids(ids: Sequence[int], vocab_size: int, param: str) -> None:
    """Refuse ids outside the vocabulary; they must never reach the core.

    Raises:
        InvalidRequestError: `param` names the place of the first one.
    """
    # The largest and smallest id decide, so that the common case is fast.
    if not ids or (min(ids) >= 0 and max(ids) < vocab_size):
        return
    place = next(i for i, token_id in enumerate(ids) if not 0 <= token_id < vocab_size)
    raise InvalidRequestError(
        f"`{param}[{place}]` is outside the vocabulary of {vocab_size} tokens.",
        param=f"{param}[{place}]",
    )


class TextMethods:
    """The methods of an engine for text and token ids."""

    _tokenizer: Tokenizer
    info: ModelInfo

    def tokenize(self, text: str, *, add_special: bool = True) -> Encoding:
        """Token ids of raw text; control tokens in it become their ids.

        add_special: begin with the tokens that the model expects there, such as `<s>`.

        >>> engine.detokenize(engine.tokenize("Hello", add_special=False).ids)
        'Hello'
        """
        return encoding(self._tokenizer, self._tokenizer.encode(text, add_special=add_special))

    def detokenize(self, ids: Sequence[int]) -> str:
        """Text of token ids, control tokens included. Raises InvalidRequestError."""
        check_ids(ids, self.info.vocab_size, "tokens")
        return decoded(self._tokenizer, ids)
