"""Logprobs of tokens, in step with the text that the tokens make."""

from __future__ import annotations

from collections import deque

from budmlx.engine.text.tokenizer import Tokenizer
from budmlx.protocol import Token
from budmlx.types import TokenLogprob


class LogprobReader:
    """Holds the logprobs of tokens back until their text is shown.

    Text may be held back as the beginning of a character or of a stop string; a token whose
    text is cut off by a stop string is not part of the reply.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._held: deque[tuple[int, int, TokenLogprob]] = deque()
        self._decoded = 0

    def push(self, token: Token, decoded: int) -> None:
        """Take a token after which the text has `decoded` characters, shown or held back."""
        top = tuple(self._entry(token_id, value) for token_id, value in token.top)
        begin, self._decoded = self._decoded, decoded
        entry = self._entry(token.token, token.logprob or 0.0, top)
        self._held.append((begin, decoded, entry))

    def take(self, shown: int, *, ended: bool, start: int = 0) -> tuple[TokenLogprob, ...]:
        """Logprobs of the tokens between the characters `start` and `shown`.

        start: tokens before it are dropped, since their text is no content.
        ended: no more text follows, so a token whose text was cut short counts as shown.
        """
        taken = []
        while self._held:
            begin, end, entry = self._held[0]
            if begin < start and end <= start:
                self._held.popleft()
                continue
            if not (end <= shown or (ended and begin < shown)):
                break
            taken.append(entry)
            self._held.popleft()
        return tuple(taken)

    def _entry(
        self, token_id: int, logprob: float, top: tuple[TokenLogprob, ...] = ()
    ) -> TokenLogprob:
        raw = self._tokenizer.token_bytes[token_id]
        return TokenLogprob(raw.decode(errors="replace"), raw, logprob, top)
