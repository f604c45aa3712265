"""Why the reuse of a prompt's KV ended where it did.

The core says how much was reused. What was asked lately is remembered here, so that the place
where a prompt differs from the one most like it can be shown.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from budmlx.engine.text import token_bytes
from budmlx.engine.tokenizer import Tokenizer
from budmlx.events import CacheExplanation, MissReason

# Prompts, and tokens of prompts, that are remembered.
MAX_PROMPTS = 256
MAX_TOKENS = 2_000_000
# So many tokens after a difference tell whether the text is the same all the same.
AHEAD = 8
# Beginnings that are shorter are computed again even if they are stored.
LEAST = 16


class History:
    """What was computed lately: prompts with their replies. Thread-safe."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._asked: deque[tuple[str, str, NDArray[np.int32]]] = deque()
        self._tokens = 0

    def add(self, owner: str, namespace: str, ids: Sequence[int]) -> None:
        """Remember ids of a prompt and its reply. owner: whose prompts may be compared."""
        with self._lock:
            self._asked.append((owner, namespace, np.asarray(ids, np.int32)))
            self._tokens += len(ids)
            while len(self._asked) > MAX_PROMPTS or self._tokens > MAX_TOKENS:
                self._tokens -= len(self._asked.popleft()[2])

    def explain(
        self,
        owner: str,
        namespace: str,
        ids: Sequence[int],
        *,
        cached: int,
        from_disk: int,
        ends: Sequence[int],
    ) -> CacheExplanation:
        """Why no more than `cached` tokens of a prompt were reused.

        ends: where each message of the prompt ends, as far as known.
        """
        prompt = np.asarray(ids, np.int32)
        with self._lock:
            asked = list(self._asked)
        here, there = 0, 0
        like: NDArray[np.int32] = prompt[:0]
        for whose, where, other in asked:
            best = here if where == namespace else there
            if whose != owner or not _may_have_more(prompt, other, best):
                continue
            common = _common(prompt, other)
            if where != namespace:
                there = max(there, common)
            elif common > here:
                here, like = common, other
        reason, place = self._reason(prompt, like, cached, here, there)
        return CacheExplanation(
            matched_tokens=cached,
            prompt_tokens=len(ids),
            tier=("disk" if from_disk else "memory") if cached else "none",
            reason=reason,
            token=place,
            text="" if place is None else self._tokenizer.backend.decode(ids[place : place + 1]),
            message=None if place is None else _message(ends, place),
        )

    def _reason(
        self, prompt: NDArray[np.int32], like: NDArray[np.int32], cached: int, here: int, there: int
    ) -> tuple[MissReason, int | None]:
        # The last token is computed in any case, since it draws the first one of the reply.
        if cached >= len(prompt) - 1:
            return "complete", None
        if here >= max(cached + 2, LEAST):
            return "evicted", cached
        if there >= max(here + 1, LEAST):
            return "other_namespace", cached
        place = max(here, cached)
        if not here:
            return "never_seen", place
        if place == len(like):
            return "new", place
        same_text = _same_text(self._bytes(prompt[place:]), self._bytes(like[place:]))
        return ("retokenised" if same_text else "differs"), place

    def _bytes(self, ids: NDArray[np.int32]) -> list[bytes]:
        return [token_bytes(self._tokenizer, int(id_)) for id_ in islice(ids, AHEAD)]


def _common(one: NDArray[np.int32], other: NDArray[np.int32]) -> int:
    """How many ids both begin with."""
    length = min(len(one), len(other))
    same = one[:length] == other[:length]
    return length if same.all() else int(same.argmin())


def _may_have_more(one: NDArray[np.int32], other: NDArray[np.int32], common: int) -> bool:
    """Whether both may begin with more than so many same ids. Nearly all are ruled out here."""
    return common < min(len(one), len(other)) and bool(one[common] == other[common])


def _same_text(one: Sequence[bytes], other: Sequence[bytes]) -> bool:
    """Whether texts begin alike, as far as the longer one of their first tokens goes."""
    most = max(len(one[0]), len(other[0])) if one and other else 0
    return most > 0 and b"".join(one)[:most] == b"".join(other)[:most]


def _message(ends: Sequence[int], place: int) -> int | None:
    """Which message a token belongs to."""
    return next((number for number, end in enumerate(ends) if place < end), None)
