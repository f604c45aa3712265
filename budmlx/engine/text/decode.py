"""Detokenization: token ids to text while they arrive, up to a stop string.

All text that a `TextStream` gives out equals what the tokenizer decodes from all ids at
once. The one exception: where a model writes characters as single bytes and breaks one
off, the characters before it stay, whereas decoding at once replaces the whole run.
"""

from __future__ import annotations

import codecs
from collections.abc import Collection, Sequence
from typing import Protocol

from tokenizers import Tokenizer as Backend

from budmlx.engine.text.stops import StopScanner
from budmlx.engine.text.tokenizer import TokenBytes, Tokenizer, fallback_byte


class TextStream:
    """The text of one reply. Each push costs a bounded time.

    stop: strings that end the text. The one that is complete first wins; of several that
    are complete at the same character, the longest.
    visible: control tokens that are shown, as parsers need them.
    stop_after: stop strings count only in the text of later tokens than these.
    stopped: a stop string was found; the text ends right before it, and later pushes and
    `finish` give nothing. decoded: characters so far, shown or held back.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: Sequence[str] = (),
        stop_after: int = 0,
        visible: Collection[str] = (),
    ):
        self._early = stop_after
        self.stopped = False
        self.decoded = 0
        self._hidden = tokenizer.hidden_ids
        if visible:
            ids = {tokenizer.backend.token_to_id(token) for token in visible}
            self._hidden = self._hidden - ids
        self._decoder = _decoder(tokenizer)
        self._stops = StopScanner(stop) if stop else None

    @property
    def stop(self) -> str:
        """The stop string that ended the text; empty if none did."""
        return self._stops.found if self._stops is not None else ""

    def push(self, token_id: int) -> str:
        """Take one id and return the text that is now safe to show."""
        early, self._early = self._early > 0, self._early - 1
        if self.stopped or token_id in self._hidden:
            return ""
        text = self._decoder.push(token_id)
        self.decoded += len(text)
        return text if early else self._scan(text)

    def finish(self) -> str:
        """The text held back so far. Call it once, after the last push."""
        if self.stopped:
            return ""
        text = self._decoder.finish()
        self.decoded += len(text)
        text = self._scan(text)
        if self._stops is None or self.stopped:
            return text
        return text + self._stops.held

    def _scan(self, text: str) -> str:
        if self._stops is None or not text:
            return text
        safe, self.stopped = self._stops.scan(text)
        return safe


class _Decoder(Protocol):
    def push(self, token_id: int) -> str:
        """Text that this id completes."""

    def finish(self) -> str:
        """Text of what was left incomplete."""


def _decoder(tokenizer: Tokenizer) -> _Decoder:
    known = tokenizer.token_bytes
    return _ByteLevelDecoder(known) if known.byte_level else _PieceDecoder(tokenizer.backend)


class _ByteLevelDecoder:
    """For vocabularies in which each character of a token stands for one byte."""

    def __init__(self, known: TokenBytes):
        self._known = known
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        return self._utf8.decode(self._known[token_id])

    def finish(self) -> str:
        return self._utf8.decode(b"", final=True)


class _PieceDecoder:
    """For SentencePiece and other vocabularies, whose tokens are text.

    The library decodes each token after the one before it, which settles the spaces. Bytes
    such as `<0xE2>` are collected until they are a character.
    """

    def __init__(self, backend: Backend):
        self._backend = backend
        self._before: list[int] = []
        self._text_before = ""
        self._bytes = bytearray()
        letter = backend.token_to_id("<0x41>")
        self._byte_fallback = letter is not None and self._decode([letter]) == "A"
        self._letter = letter

    def _decode(self, ids: list[int]) -> str:
        return str(self._backend.decode(ids, skip_special_tokens=False))

    def push(self, token_id: int) -> str:
        token = self._backend.id_to_token(token_id)
        if token is None:
            return ""
        if self._byte_fallback and (byte := fallback_byte(token)) is not None and byte >= 0x80:
            return self._push_byte(byte)
        text = self.finish() + self._decode([*self._before, token_id]).removeprefix(
            self._text_before
        )
        self._set_before(token_id)
        return text

    def finish(self) -> str:
        lost = "\ufffd" * len(self._bytes)
        self._bytes.clear()
        return lost

    def _set_before(self, token_id: int | None) -> None:
        self._before = [] if token_id is None else [token_id]
        self._text_before = self._decode(self._before)

    def _push_byte(self, byte: int) -> str:
        # Any token that is not the first of the text does for what follows.
        self._set_before(self._letter)
        self._bytes.append(byte)
        lost = ""
        while self._bytes:
            try:
                text = self._bytes.decode()
            except UnicodeDecodeError as error:
                if error.end == len(self._bytes) and "unexpected end" in error.reason:
                    return lost
                lost += "\ufffd"
                del self._bytes[0]
            else:
                self._bytes.clear()
                return lost + text
        return lost
