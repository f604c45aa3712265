"""What the model said lately, in its own token ids.

A client sends a reply back as text, which may tokenize differently than the model wrote it.
Where the text is the same, the model's own ids take its place in the next prompt, so that the
KV of the whole conversation can be reused.
"""

from __future__ import annotations

import hashlib
import threading
from array import array
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from budmlx.engine.asked import Prompt
from budmlx.engine.text.decode import token_bytes
from budmlx.engine.text.tokenizer import Tokenizer

# Replies, and tokens of replies, that are remembered.
MAX_REPLIES = 1024
MAX_TOKENS = 1_000_000


@dataclass(frozen=True, slots=True)
class _Answer:
    """What was said to a prompt of so many tokens, by each choice."""

    after: int
    replies: tuple[tuple[int, ...], ...]

    @property
    def tokens(self) -> int:
        return sum(map(len, self.replies))


class Transcript:
    """The last replies, by the prompts that they answered. Thread-safe."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._answers: OrderedDict[tuple[str, bytes], _Answer] = OrderedDict()
        self._lengths: Counter[int] = Counter()
        self._tokens = 0

    def add(self, namespace: str, prompt: Sequence[int], replies: Sequence[Sequence[int]]) -> None:
        """Remember what was answered to a prompt, without the ids that ended it."""
        answer = _Answer(len(prompt), tuple(tuple(ids) for ids in replies if ids))
        key = (namespace, hashlib.blake2b(_bytes(prompt), digest_size=16).digest())
        with self._lock:
            if key in self._answers:
                self._forget(key)
            if not answer.replies:
                return
            self._answers[key] = answer
            self._lengths[answer.after] += 1
            self._tokens += answer.tokens
            while len(self._answers) > MAX_REPLIES or self._tokens > MAX_TOKENS:
                self._forget(next(iter(self._answers)))

    def _forget(self, key: tuple[str, bytes]) -> None:
        answer = self._answers.pop(key)
        self._tokens -= answer.tokens
        self._lengths[answer.after] -= 1
        if not self._lengths[answer.after]:
            del self._lengths[answer.after]

    def spliced(self, namespace: str, prompt: Prompt) -> Prompt:
        """The prompt with the model's own ids wherever it holds a remembered reply as text."""
        begin, digest = 0, hashlib.blake2b(digest_size=16)
        while (found := self._next(namespace, prompt.ids, begin, digest)) is not None:
            begin, digest, replies = found
            rest = prompt.ids[begin:]
            own, theirs, reply = max((*self._common(each, rest), each) for each in replies)
            # A reply that was edited is not what the model said.
            whole = own == len(reply) or self._text(rest, theirs) is None
            if whole and reply[:own] != tuple(rest[:theirs]):
                prompt = _replaced(prompt, begin, theirs, reply[:own])
        return prompt

    def _next(
        self, namespace: str, ids: Sequence[int], begin: int, digest: hashlib.blake2b
    ) -> tuple[int, hashlib.blake2b, tuple[tuple[int, ...], ...]] | None:
        """The first place after `begin` where a reply is remembered for what stands before.

        digest: of what stands before `begin`.
        """
        with self._lock:
            for place in sorted(length for length in self._lengths if begin < length < len(ids)):
                digest = digest.copy()
                digest.update(_bytes(ids[begin:place]))
                begin = place
                key = (namespace, digest.digest())
                if key in self._answers:
                    self._answers.move_to_end(key)
                    return place, digest, self._answers[key].replies
        return None

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


def _replaced(prompt: Prompt, begin: int, count: int, ids: Sequence[int]) -> Prompt:
    """The prompt with other ids from a place on; what stands after it moves along."""
    moved = len(ids) - count
    images = tuple(
        msgspec.structs.replace(image, start=image.start + moved) if image.start >= begin else image
        for image in prompt.images
    )

    def along(places: Sequence[int]) -> tuple[int, ...]:
        return tuple(place if place <= begin else place + moved for place in places)

    new = [*prompt.ids[:begin], *ids, *prompt.ids[begin + count :]]
    return Prompt(new, images, along(prompt.checkpoints), along(prompt.ends))


def _bytes(ids: Sequence[int]) -> bytes:
    return array("q", ids).tobytes()
