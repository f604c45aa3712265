"""Transcript: what the model wrote lately, in its own token ids.

A client sends a reply back as text, which may tokenize differently than the model wrote it.
Where the text is the same, the model's own ids take its place in the next prompt, so that the
KV of the whole conversation can be reused.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import msgspec

from budmlx.engine.prompt import TokenizedPrompt
from budmlx.engine.text.decode import token_bytes
from budmlx.engine.text.tokenizer import Tokenizer
from budmlx.lookup import Prefix, PrefixIndex, PrefixWalk

# Replies, and tokens of replies, that are remembered.
MAX_REPLIES = 1024
MAX_TOKENS = 1_000_000

Replies = tuple[tuple[int, ...], ...]
"""The ids of a reply, of each choice."""


class Transcript:
    """The last replies, by the prompts that they answered. Thread-safe."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._replies: PrefixIndex[Replies] = PrefixIndex(count=MAX_REPLIES, limit=MAX_TOKENS)

    def add(self, namespace: str, prompt: Sequence[int], replies: Sequence[Sequence[int]]) -> None:
        """Remember what was answered to a prompt, without the ids that ended it."""
        written = tuple(tuple(ids) for ids in replies if ids)
        key = Prefix.of(namespace, prompt)
        with self._lock:
            if written:
                self._replies.put(key, written, sum(map(len, written)))
            else:
                self._replies.entries.pop(key)

    def spliced(self, namespace: str, prompt: TokenizedPrompt) -> TokenizedPrompt:
        """The prompt with the model's own ids wherever it holds a remembered reply as text."""
        walk = self._replies.walk(namespace)
        while (replies := self._next(walk, prompt.ids)) is not None:
            begin = walk.place
            rest = prompt.ids[begin:]
            own, theirs, reply = max((*self._common(each, rest), each) for each in replies)
            # A reply that was edited is not what the model said.
            whole = own == len(reply) or self._text(rest, theirs) is None
            if whole and reply[:own] != tuple(rest[:theirs]):
                prompt = _replaced(prompt, begin, theirs, reply[:own])
        return prompt

    def _next(self, walk: PrefixWalk[Replies], ids: Sequence[int]) -> Replies | None:
        """The replies to the next beginning of `ids` that was a prompt and that ids follow."""
        with self._lock:
            if walk.next(ids) is None or walk.place == len(ids):
                return None
            return self._replies.entries.get(walk.key)

    def _common(self, reply: Sequence[int], ids: Sequence[int]) -> tuple[int, int]:
        """How many ids of both, from their beginnings, stand for exactly the same text.

        Control tokens are no text: they equal themselves only.
        """
        mine = theirs = b""
        i = j = 0
        while True:
            if mine == theirs:
                while i < len(reply) and j < len(ids) and reply[i] == ids[j]:
                    i, j = i + 1, j + 1
                best, mine, theirs = (i, j), b"", b""
            if len(mine) <= len(theirs):
                if (text := self._text(reply, i)) is None:
                    return best
                mine, i = mine + text, i + 1
            else:
                if (text := self._text(ids, j)) is None:
                    return best
                theirs, j = theirs + text, j + 1
            if not (mine.startswith(theirs) or theirs.startswith(mine)):
                return best

    def _text(self, ids: Sequence[int], place: int) -> bytes | None:
        """What the id at a place stands for; None at the end and for control tokens."""
        if place == len(ids) or self._tokenizer.control.among([ids[place]]):
            return None
        return token_bytes(self._tokenizer, ids[place])


def _replaced(
    prompt: TokenizedPrompt, begin: int, count: int, ids: Sequence[int]
) -> TokenizedPrompt:
    """The prompt with other ids from a place on; what stands after it moves along."""
    moved = len(ids) - count
    images = tuple(
        msgspec.structs.replace(image, start=image.start + moved) if image.start >= begin else image
        for image in prompt.images
    )

    def along(places: Sequence[int]) -> tuple[int, ...]:
        return tuple(place if place <= begin else place + moved for place in places)

    new = [*prompt.ids[:begin], *ids, *prompt.ids[begin + count :]]
    return TokenizedPrompt(new, images, along(prompt.checkpoints), along(prompt.ends))
