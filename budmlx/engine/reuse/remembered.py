"""What the engine remembers of former requests, so that KV is reused and misses are explained."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType

from budmlx.engine.asked import Asked
from budmlx.engine.reuse.explain import History
from budmlx.engine.reuse.transcript import Transcript
from budmlx.engine.text.tokenizer import Tokenizer
from budmlx.types import CacheExplanation, Finished, PrefixCacheStats


class Remembered:
    """Thread-safe. enabled: whether any KV is reused. states: as of `History`."""

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

    def with_own_ids(self, asked: Asked, seed: int | None) -> Asked:
        """A prompt that is asked now, with what the model said before in its own ids.

        A seed promises the same tokens whatever was asked before, so that none are exchanged.
        """
        asked = replace(asked, since=self._history.count)
        if not self._enabled or not asked.is_chat or seed is not None:
            return asked
        prompt = self._transcript.spliced(asked.namespace, asked.prompt)
        return replace(asked, prompt=prompt) if len(prompt.ids) < self._context_length else asked

    def add(self, asked: Asked, spoken: Sequence[list[int]]) -> None:
        """Remember a prompt and what the choices said, without the ids that ended them."""
        if not self._enabled:
            return
        if asked.is_chat:
            self._transcript.add(asked.namespace, asked.prompt.ids, spoken)
        reply = spoken[0] if spoken else ()
        self._history.add(asked.owner, asked.namespace, asked.prompt, reply)

    def explained(self, asked: Asked, end: Finished, from_disk: int) -> Finished:
        """The end with why no more KV was reused, if that was asked for; counts it anyway.

        end: of a request; each must come here once.
        """
        explanation = self._explanation(asked, end.usage.cached_tokens, from_disk)
        with self._lock:
            self._stats = _plus(self._stats, explanation, from_disk)
        return replace(end, cache_explanation=explanation) if asked.explain else end

    def _explanation(self, asked: Asked, cached: int, from_disk: int) -> CacheExplanation:
        if not self._enabled:
            return CacheExplanation(0, len(asked.prompt.ids), "none", "off")
        return self._history.explain(
            asked.owner,
            asked.namespace,
            asked.prompt,
            cached=cached,
            from_disk=from_disk,
            since=asked.since,
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
