"""Tracker of KV reuse: own ids for earlier replies, and explanations of what was reused.

A client sends a reply back as text, which may tokenize differently than the model wrote it.
Where the text is the same, the model's own ids take its place in the next prompt, so that the
KV of the whole conversation can be reused.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import msgspec

from budmlx.engine.prompt import TokenizedPrompt
from budmlx.engine.reuse.explain import History
from budmlx.engine.text.tokenizer import Tokenizer
from budmlx.lookup import Prefix, PrefixIndex, PrefixWalk
from budmlx.types import CacheExplanation, PrefixCacheStats, Request

# Replies, and tokens of replies, that are remembered.
MAX_REPLIES = 1024
MAX_TOKENS = 1_000_000

Replies = tuple[tuple[int, ...], ...]
"""The ids of a reply, of each choice."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A prompt as it is submitted to the core, with the namespace of its owner.

    namespace: that of the KV that it may reuse. since: `History.count` at the submission.
    adapter: the digest of the one that it uses, if any.
    """

    owner: str
    namespace: str
    prompt: TokenizedPrompt
    is_chat: bool
    explain: bool
    since: int = 0
    adapter: str = ""

    @classmethod
    def of(cls, request: Request, prompt: TokenizedPrompt, *, shared: bool) -> Submission:
        """shared: API keys may reuse each other's KV."""
        owner = "" if shared else request.namespace
        return cls(
            owner,
            _namespace(owner, request.cache_salt, request.adapter),
            prompt,
            request.messages is not None,
            request.explain_cache,
            adapter=request.adapter,
        )


class ReuseTracker:
    """Makes prompts reuse more KV, and explains and counts what they reused. Thread-safe.

    enabled: whether any KV is reused. states: as of `History`.
    """

    def __init__(
        self, tokenizer: Tokenizer, context_length: int, *, enabled: bool, states: bool = False
    ):
        self._context_length = context_length
        self._enabled = enabled
        self._transcript = Transcript(tokenizer)
        self._history = History(tokenizer, states=states)
        self._lock = threading.Lock()
        self._stats = PrefixCacheStats()

    @property
    def stats(self) -> PrefixCacheStats:
        """The counts of all requests whose ends were explained."""
        return self._stats

    def with_own_ids(self, submission: Submission, seed: int | None) -> Submission:
        """A submission of the prompt, in which earlier replies of the model have their own ids.

        With a seed no ids are exchanged, since it promises the same tokens whatever came before.
        """
        submission = replace(submission, since=self._history.count)
        if not self._enabled or not submission.is_chat or seed is not None:
            return submission
        prompt = self._transcript.spliced(submission.namespace, submission.prompt)
        fits = len(prompt.ids) < self._context_length
        return replace(submission, prompt=prompt) if fits else submission

    def add(self, submission: Submission, written: Sequence[list[int]]) -> None:
        """Note a prompt and its reply by each choice, without the ids that ended it."""
        if not self._enabled:
            return
        if submission.is_chat:
            self._transcript.add(submission.namespace, submission.prompt.ids, written)
        reply = written[0] if written else ()
        self._history.add(submission.owner, submission.namespace, submission.prompt, reply)

    def explained(self, submission: Submission, cached: int, from_disk: int) -> CacheExplanation:
        """The explanation of what a request reused; it is counted, so each comes here once.

        cached: tokens that were reused. from_disk: those of them that were read there.
        """
        explanation = self._explanation(submission, cached, from_disk)
        with self._lock:
            self._stats = _plus(self._stats, explanation, from_disk)
        return explanation

    def _explanation(self, submission: Submission, cached: int, from_disk: int) -> CacheExplanation:
        if not self._enabled:
            return CacheExplanation(0, len(submission.prompt.ids), "none", "off")
        return self._history.explain(
            submission.owner,
            submission.namespace,
            submission.prompt,
            cached=cached,
            from_disk=from_disk,
            since=submission.since,
        )


def _plus(
    stats: PrefixCacheStats, explanation: CacheExplanation, from_disk: int
) -> PrefixCacheStats:
    """The counts with one more request."""
    reason = explanation.reason
    return PrefixCacheStats(
        prompt_tokens=stats.prompt_tokens + explanation.prompt_tokens,
        memory_tokens=stats.memory_tokens + explanation.matched_tokens - from_disk,
        disk_tokens=stats.disk_tokens + from_disk,
        reasons=MappingProxyType({**stats.reasons, reason: stats.reasons[reason] + 1}),
    )


class Transcript:
    """The last replies in their own ids, by the prompts that they answered.

    Thread-safe.
    """

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
        """The numbers of first ids, of either, that stand for exactly the same text.

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
        """The text of the id at a place; None at the end and for control tokens."""
        if place == len(ids) or self._tokenizer.control.among([ids[place]]):
            return None
        return self._tokenizer.token_bytes[ids[place]]


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

    places = along([place for place, _ in prompt.retained])
    seconds = (each for _, each in prompt.retained)
    return TokenizedPrompt(
        [*prompt.ids[:begin], *ids, *prompt.ids[begin + count :]],
        images,
        along(prompt.checkpoints),
        along(prompt.ends),
        tuple(zip(places, seconds, strict=True)),
    )


def _namespace(owner: str, salt: str, adapter: str) -> str:
    """The namespace of three texts: distinct for distinct ones, and empty for empty ones."""
    if adapter:
        # A text that begins with no number is none of the others.
        text = f"adapter {adapter} {_namespace(owner, salt, '')}"
    elif owner or salt:
        text = f"{len(owner)} {owner}{salt}"
    else:
        return ""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
