"""Tracker of the reuse of KV: former prompts and replies, and why requests reused no more."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType

from budmlx.engine.prompt import Submission
from budmlx.engine.reuse.explain import History
from budmlx.engine.reuse.transcript import Transcript
from budmlx.engine.text.tokenizer import Tokenizer
from budmlx.types import CacheExplanation, Finished, PrefixCacheStats


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
        """A prompt that is submitted now, with what the model wrote before in its own ids.

        A seed promises the same tokens whatever was submitted before, so that none are exchanged.
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

    def explained(self, submission: Submission, end: Finished, from_disk: int) -> Finished:
        """The end with why no more KV was reused, if that was asked for; counts it anyway.

        end: of a request; each must come here once.
        """
        explanation = self._explanation(submission, end.usage.cached_tokens, from_disk)
        with self._lock:
            self._stats = _plus(self._stats, explanation, from_disk)
        return replace(end, cache_explanation=explanation) if submission.explain else end

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
