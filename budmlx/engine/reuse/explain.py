"""Explanations: why the reuse of a prompt's KV ended where it did.

The core says how much was reused. The last prompts are kept here, so that the place
where a prompt differs from the one most like it can be shown.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, takewhile

import numpy as np
from numpy.typing import NDArray

from budmlx.engine.prompt import TokenizedPrompt
from budmlx.engine.text.tokenizer import Tokenizer
from budmlx.lookup import Bounded
from budmlx.protocol import LEAST_REUSED, LEAST_STRETCH, with_image_keys
from budmlx.types import CacheExplanation, MissReason

# Prompts, and tokens of prompts, that are remembered.
MAX_PROMPTS = 256
MAX_TOKENS = 2_000_000
# Tokens after a difference that are compared to see whether the text is the same anyway.
AHEAD = 8


@dataclass(frozen=True, slots=True)
class _PastPrompt:
    """A prompt with its reply. owner: prompts of the same one may be compared.

    number: how many were added before it. keys: see `with_image_keys`. places: where states
    were kept; without any, all of it was.
    """

    number: int
    owner: str
    namespace: str
    keys: NDArray[np.int64]
    places: tuple[int, ...]

    def stored(self, common: int, cached: int) -> int:
        """The number of keys stored, of the first `common` ones, if that is more than `cached`."""
        if not self.places:
            return common
        *between, end = self.places
        kept = (place for place in between if cached + LEAST_STRETCH <= place <= common)
        return max(kept, default=0) if end > common else end


class History:
    """Recent prompts with their replies. Thread-safe.

    states: the model keeps states at few places, instead of KV that can be cut anywhere.
    count: prompts that were ever added.
    """

    def __init__(self, tokenizer: Tokenizer, *, states: bool = False):
        self.count = 0
        self._states = states
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._past: Bounded[int, _PastPrompt] = Bounded(count=MAX_PROMPTS, limit=MAX_TOKENS)

    def add(
        self, owner: str, namespace: str, prompt: TokenizedPrompt, reply: Sequence[int] = ()
    ) -> None:
        """Remember a prompt and its reply. owner: prompts of the same one may be compared."""
        places = (*prompt.checkpoints, len(prompt.ids) - 1) if self._states else ()
        keys = _keys(prompt, reply)
        with self._lock:
            past = _PastPrompt(self.count, owner, namespace, keys, places)
            self._past.put(self.count, past, len(keys))
            self.count += 1

    def explain(
        self,
        owner: str,
        namespace: str,
        prompt: TokenizedPrompt,
        *,
        cached: int,
        from_disk: int,
        since: int | None = None,
    ) -> CacheExplanation:
        """The reason why no more than `cached` tokens of a prompt were reused.

        since: `count` at the submission. Prompts added later were computed at the same time, so
        that none of their KV could have been reused.
        """
        keys = _keys(prompt)
        with self._lock:
            past = self._past.values()
            since = self.count if since is None else since
        here = there = stored = 0
        like = keys[:0]
        for other in past:
            best = here if other.namespace == namespace else there
            if other.owner != owner or not _may_have_more(keys, other.keys, best):
                continue
            common = _common(keys, other.keys)
            if other.number >= since and common >= max(cached + 2, LEAST_REUSED):
                continue
            if other.namespace != namespace:
                there = max(there, common)
            elif common > here:
                here, like = common, other.keys
                stored = max(stored, other.stored(common, cached))
        reason, place = self._reason(keys, like, cached, stored, here, there)
        ids = prompt.ids
        return CacheExplanation(
            matched_tokens=cached,
            prompt_tokens=len(ids),
            tier=("disk" if from_disk else "memory") if cached else "none",
            reason=reason,
            token=place,
            text="" if place is None else self._tokenizer.backend.decode(ids[place : place + 1]),
            message=None if place is None else _message(prompt.ends, place),
        )

    def _reason(
        self,
        prompt: NDArray[np.int64],
        like: NDArray[np.int64],
        cached: int,
        stored: int,
        here: int,
        there: int,
    ) -> tuple[MissReason, int | None]:
        # The last token is computed in any case, since it draws the first one of the reply.
        if cached >= len(prompt) - 1:
            return "complete", None
        if stored >= max(cached + 2, LEAST_REUSED):
            return "evicted", cached
        if there >= max(here + 1, LEAST_REUSED):
            return "other_namespace", cached
        if cached > here or here == len(like) > 0:
            return "new", max(cached, here)
        if not here:
            return "never_seen", 0
        same_text = _same_text(self._bytes(prompt[here:]), self._bytes(like[here:]))
        return ("retokenised" if same_text else "differs"), here

    def _bytes(self, keys: NDArray[np.int64]) -> list[bytes]:
        ids = takewhile(lambda key: key >= 0, islice(keys, AHEAD))
        return [self._tokenizer.token_bytes[int(id_)] for id_ in ids]


def _keys(prompt: TokenizedPrompt, reply: Sequence[int] = ()) -> NDArray[np.int64]:
    ids = [*prompt.ids, *reply]
    return np.asarray(with_image_keys(ids, prompt.images) if prompt.images else ids, np.int64)


def _common(one: NDArray[np.int64], other: NDArray[np.int64]) -> int:
    """The number of ids that both begin with."""
    length = min(len(one), len(other))
    same = one[:length] == other[:length]
    return length if same.all() else int(same.argmin())


def _may_have_more(one: NDArray[np.int64], other: NDArray[np.int64], common: int) -> bool:
    """A quick check whether more than `common` first ids agree; it excludes nearly all."""
    return common < min(len(one), len(other)) and bool(one[common] == other[common])


def _same_text(one: Sequence[bytes], other: Sequence[bytes]) -> bool:
    """Whether texts begin alike, as far as the longer one of their first tokens goes."""
    most = max(len(one[0]), len(other[0])) if one and other else 0
    return most > 0 and b"".join(one)[:most] == b"".join(other)[:most]


def _message(ends: Sequence[int], place: int) -> int | None:
    """The number of the message that a token belongs to."""
    return next((number for number, end in enumerate(ends) if place < end), None)
