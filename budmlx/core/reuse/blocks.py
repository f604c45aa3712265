"""Block reuse: copies KV of prompts and replies in blocks of tokens from the caches of rows into
the tree of prefixes, and from there into the caches of prompts that begin alike.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from budmlx.core.model.memory import CACHE_STEP, arrays_of, fill
from budmlx.core.model.model import Model
from budmlx.core.reuse.checkpoints import CheckpointReuse
from budmlx.core.reuse.interface import Allowance, Reusing
from budmlx.core.reuse.session import Session, SessionError, load_session
from budmlx.core.reuse.tier import KVTier
from budmlx.core.reuse.tree import BLOCK, Clock, Match, PrefixTree
from budmlx.protocol import (
    LEAST_REUSED,
    LEAST_STRETCH,
    DiskCounts,
    KVStoreSettings,
    SessionFile,
)

log = logging.getLogger(__name__)

# Where sessions are in the tree; the adapter of each follows. Requests come with digests in
# hexadecimal digits, or nothing.
SESSIONS = "sessions"
# Passes into which the ends of turns may divide a chunk of a prompt: each reads the weights.
STRETCHES = 8


@dataclass(frozen=True, slots=True)
class BlockCopies:
    """Copies of blocks that are not in the tree yet.

    start: the first token of `ids` that they hold. values: for each block its keys and values of
    all layers, arrays [1, heads, tokens, ...]. low: they are of the background.
    """

    namespace: str
    ids: Sequence[int]
    start: int
    values: list[list[mx.array]]
    low: bool = False

    @property
    def arrays(self) -> list[mx.array]:
        """The arrays to evaluate before they are put into the tree."""
        return [array for arrays in self.values for array in arrays]


class BlockReuse:
    """Stores and finds KV by token ids, for caches that can be cut at any token.

    limit: bytes at most; 0 switches everything off. count: most blocks. least: tokens that
    make a hit. kv_store: the directory in which KV outlives the process, if there is one.
    clock: see `PrefixTree`.
    """

    def __init__(
        self,
        model: Model,
        limit: int,
        *,
        count: float = math.inf,
        block: int = BLOCK,
        least: int = LEAST_REUSED,
        kv_store: KVStoreSettings | None = None,
        clock: Clock = time.monotonic,
    ):
        self._model = model
        self._clock = clock
        self._least = least
        self.limit = limit
        self._count = count
        self.tier = KVTier.open(model, kv_store, block) if limit and kv_store else None
        self._sessions: dict[tuple[str, tuple[int, ...]], Session] = {}
        self.tree = self._new_tree(limit, block)

    def _new_tree(self, limit: int, block: int) -> PrefixTree:
        if self.tier is None:
            return PrefixTree(limit, block, count=self._count, clock=self._clock)
        calls = self.tier.leaving, self._count, self.tier.replaced
        return PrefixTree(limit, block, *calls, self._clock)

    @property
    def enabled(self) -> bool:
        """Whether anything is ever stored."""
        return self.limit > 0

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks in memory."""
        return self.tree.nbytes

    @property
    def disk(self) -> DiskCounts:
        """See `Reusing`."""
        return self.tier.counters if self.tier is not None else DiskCounts()

    @property
    def version(self) -> int:
        """Changes whenever more can be found."""
        return self.tree.version

    @property
    def reserved(self) -> int:
        """Bytes that are never evicted: those of sessions."""
        return sum(session.nbytes for session in self._sessions.values())

    def resize(self, room: int) -> None:
        """Evict down to `room`, the bytes that rows leave, or to the limit if that is less."""
        self.tree.resize(max(0, min(self.limit, room)))

    def clear(self) -> None:
        """Forget everything but sessions."""
        old = self.tree
        if self.tier is not None:
            self.tier.forget()
        self.tree = self._new_tree(old.limit, old.block)
        self.tree.version = old.version + 1
        for session in self._sessions.values():
            self._pin(session)

    # Sessions

    def open_session(self, session: SessionFile | None, adapters: Collection[str] = ("",)) -> str:
        """Load a session for rows to begin with; see `Reusing`."""
        if session is None or session.save:
            return ""
        try:
            read = load_session(self._model, Path(session.path), self.limit, adapters)
        except SessionError as error:
            return f"{error}."
        key = (read.adapter, tuple(read.ids))
        if key in self._sessions:
            return ""
        if not self._pin(read):
            return f"{session.path} needs more memory than prefix_cache may take."
        self._sessions[key] = read
        return ""

    def _pin(self, session: Session) -> bool:
        """Pin a session in the tree; returns whether there is room for it."""
        block, ids = self.tree.block, session.ids
        ends = range(block, len(ids) + block, block)
        cuts = [[array[..., end - block : end, :] for array in session.arrays] for end in ends]
        values = [(arrays, sum(array.nbytes for array in arrays)) for arrays in cuts]
        namespace = SESSIONS + session.adapter
        self.tree.insert(namespace, ids, 0, values)
        match = self.tree.match(namespace, ids)
        if match.length == len(ids):
            match.pin()
        return match.length == len(ids)

    # The disk

    @property
    def reads_disk(self) -> bool:
        """See `Reusing`."""
        return self.tier is not None

    @property
    def pending(self) -> bool:
        """Whether blocks wait to be written to disk."""
        return self.tier is not None and self.tier.pending

    def save(self) -> None:
        """Queue one block for the disk."""
        if self.tier is not None:
            self.tier.save()

    def in_memory(self, namespace: str, ids: Sequence[int]) -> int:
        """Tokens of `ids` that are in memory; all of them where there is no disk tier."""
        if self.tier is None:
            return len(ids)
        return self.tree.match(namespace, ids, low=True).length  # It is not used yet.

    def restore(
        self, namespace: str, ids: Sequence[int], allowed: Allowance, *, low: bool = False
    ) -> bool:
        """Read blocks of `ids` from disk into the tree, as many as are allowed.

        Returns whether there is more for the next allowance.
        """
        if self.tier is None:
            return False
        return self.tier.restore(self.tree, namespace, ids, self._least, allowed, low=low)

    def close(self, seconds: float) -> None:
        """Write to disk what can be written within `seconds`."""
        if self.tier is not None:
            self.tier.close(seconds)

    # Out of the tree

    def find(
        self,
        namespace: str,
        ids: Sequence[int],
        computed: int,
        adapter: str = "",
        *,
        low: bool = False,
    ) -> Match | None:
        """A stored prefix of `ids` that is worth its copy; it is pinned. See `Reusing`."""
        match = self.tree.match(namespace, ids, low=low)
        if self._sessions:
            match = self._with_session(namespace, ids, match, SESSIONS + adapter)
        gain = match.length - computed
        least = self.tree.block if computed else self._least
        if gain < least and (gain < 1 or match.length < len(ids)):
            return None
        match.pin()
        return match

    def _with_session(
        self, namespace: str, ids: Sequence[int], match: Match, sessions: str
    ) -> Match:
        """The match, or that of a session if it is longer, whose KV is shared by reference.

        A part of the last block is shared as a block that ended early, which the row's own KV
        replaces when it continues.
        """
        session = self.tree.match(sessions, ids)
        length = session.length
        if length <= match.length or length < min(self._least, len(ids)):
            return match
        shared = [(block.value, 0) for block in session.blocks]
        rest = length - (len(shared) - 1) * self.tree.block
        shared[-1] = ([array[..., :rest, :] for array in session.blocks[-1].value], 0)
        self.tree.insert(namespace, ids[:length], 0, shared)
        return self.tree.match(namespace, ids)

    def places(
        self, wanted: Sequence[int], nbytes: Callable[[int], int], marked: Collection[int] = ()
    ) -> list[int]:
        """None: blocks are stored wherever a pass ends, and can be cut anywhere."""
        return []

    def retain(self, namespace: str, ids: Sequence[int], seconds: float) -> None:
        """See `Reusing`."""
        self.tree.retain(namespace, ids, seconds)

    def dense(self, match: Match, capacity: int) -> list[Any]:
        """A contiguous cache for one row, one entry per layer, that holds a copy of the match.

        capacity: tokens that the row needs room for soon.
        """
        *whole, last = (block.value for block in match.blocks)
        rest = match.length - len(whole) * self.tree.block
        spare = -(-capacity // CACHE_STEP) * CACHE_STEP - match.length
        copies = []
        for index, array in enumerate(last):
            parts = [value[index] for value in whole]
            parts.append(array[..., :rest, :])
            if spare > 0:
                batch, heads, _, width = array.shape
                parts.append(mx.zeros((batch, heads, spare, width), array.dtype))
            copies.append(mx.concatenate(parts, axis=2))
        # Started now, so that the blocks can be evicted.
        mx.async_eval(copies)
        cache = self._model.new_cache()
        width = len(copies) // len(cache)
        for number, entry in enumerate(cache):
            fill(entry, copies[number * width : (number + 1) * width], match.length)
        return cache

    # Into the tree

    def cut(
        self,
        namespace: str,
        ids: Sequence[int],
        cache: Callable[[], Sequence[Any]],
        *,
        tail: bool,
        low: bool = False,
    ) -> BlockCopies | None:
        """Copies, not yet computed, of the blocks of `ids` that are not stored.

        cache: gives the cache of a row that holds at least `ids`. tail: the tokens after the
        last full block are wanted too. low: for the background.
        """
        block = self.tree.block
        length = len(ids) if tail else len(ids) // block * block
        if not self.tree.limit or length == 0:
            return None
        start = self.tree.stored(namespace, ids[:length])
        if start >= length:
            return None
        arrays = [array for entry in cache() for array in arrays_of(entry)]
        nbytes = sum(array.nbytes // array.shape[2] for array in arrays) * block
        # What the tree cannot hold is not copied.
        most = int(min((self.tree.limit - self.tree.pinned) // nbytes + 1, self._count))
        values = [
            [mx.contiguous(array[..., begin : min(begin + block, length), :]) for array in arrays]
            for begin in range(start, min(length, start + most * block), block)
        ]
        return BlockCopies(namespace, ids[:length], start, values, low)

    def store(self, cut: BlockCopies | None) -> None:
        """Put what `cut` returned into the tree, once it has been evaluated."""
        if cut is not None:
            values = [(arrays, sum(array.nbytes for array in arrays)) for arrays in cut.values]
            new = self.tree.insert(cut.namespace, cut.ids, cut.start, values, low=cut.low)
            if self.tier is not None:
                self.tier.added(new)

    def keep(
        self,
        namespace: str,
        ids: Sequence[int],
        held: int,
        cache: Callable[[], Sequence[Any]],
        *,
        low: bool = False,
    ) -> None:
        """Store the KV of a row that leaves, as far as its cache holds it.

        ids: prompt and generated tokens. held: tokens that the cache holds; they may be fewer,
        or go on beyond `ids`. low: for the background.
        """
        ids = ids[:held]
        if not self.tree.limit or self.tree.stored(namespace, ids) == len(ids):
            return
        cut = self.cut(namespace, ids, cache, tail=True, low=low)
        if cut is not None:
            mx.async_eval(cut.arrays)
            self.store(cut)


def open_reuse(
    model: Model,
    size: float,
    kv_store: KVStoreSettings | None = None,
    clock: Clock = time.monotonic,
) -> Reusing:
    """The reuse that fits the model's caches: of blocks or of checkpoints.

    size: see `MemoryPolicy.prefix_cache`. clock: see `PrefixTree`.
    """
    limit = model.policy.prefix_cache(size, model.memory.weights)
    count = model.policy.stored_arrays // max(model.memory.arrays, 1)
    if kv_store is not None and (not limit or model.info.needs_checkpoints):
        reason = "this model's caches cannot be cut" if limit else "prefix_cache is 0"
        log.warning("no KV is kept on disk, since %s", reason)
    if model.info.needs_checkpoints:
        stretch = max(LEAST_STRETCH, model.numbers.prefill_chunk // STRETCHES)
        return CheckpointReuse(limit, count, stretch=stretch, clock=clock)
    return BlockReuse(model, limit, count=count, kv_store=kv_store, clock=clock)
