"""Prefill: computes the KV of prompts into caches, for the rows that will continue them."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from budmlx.core.batch.states import PromptState
from budmlx.core.model.memory import CACHE_STEP, MemoryModel, row_of, scale
from budmlx.core.model.model import Model
from budmlx.core.reuse.interface import Allowance, PendingCopy, Reusing, StoredPrefix
from budmlx.core.reuse.session import save_session
from budmlx.core.row import Row, adapters_of
from budmlx.protocol import LEAST_STRETCH

# Passes of fewer tokens are of one kind: what is slow to build differs for tiles of many.
PASS = 32


@dataclass(eq=False, slots=True)
class Prompt:
    """One prefill.

    rows: the choices that fork from it; all have the same ids.
    cache: one entry per layer, a single row's. computed: how many ids it holds.
    places: tokens after which its state is kept, ascending.
    match: a stored prefix that is longer; it is copied before the next pass.
    reused: prompt tokens that came out of the tree. seen: version of the tree at the
    last look-up, -1 before the first.
    restoring: more of it is on disk, and worth waiting for.
    in_memory: tokens that could be reused before anything was read from there.
    """

    rows: list[Row]
    cache: list[Any]
    places: Sequence[int] = ()
    computed: int = 0
    match: StoredPrefix | None = None
    reused: int = 0
    seen: int = -1
    restoring: bool = False
    in_memory: int = 0

    @property
    def state(self) -> PromptState:
        """The prompt as the scheduler sees it."""
        rows = [row.id for row in self.rows]
        left, place = self.remaining, self.next_checkpoint
        return PromptState(rows, self.computed, left, place, self.restoring)

    @property
    def ids(self) -> list[int]:
        """Token ids of the prompt, and of what was generated before a fault."""
        return self.rows[0].ids

    @property
    def keys(self) -> list[int]:
        """Ids for comparing prompts, in which keys of images stand for their placeholders."""
        return self.rows[0].keys

    @property
    def namespace(self) -> str:
        """The namespace whose stored prefixes may be used."""
        return self.rows[0].request.namespace

    @property
    def low(self) -> bool:
        """Whether its rows are of the background."""
        return self.rows[0].background

    @property
    def held(self) -> int:
        """Tokens that need no computing any more, those of the match included."""
        return self.computed if self.match is None else self.match.length

    @property
    def remaining(self) -> int:
        """Tokens to prefill. The last id is left to the first decode step."""
        return len(self.ids) - 1 - self.held

    def grows(self, memory: MemoryModel, count: int) -> bool:
        """Whether `count` more tokens, or 0 for all, need larger arrays than the cache has."""
        held, count = self.held, count or self.remaining
        return held > 0 and memory.row(held) < memory.row(held + count)

    @property
    def next_checkpoint(self) -> int | None:
        """Tokens up to the next place where the state is kept; None if there is none."""
        end = len(self.ids) - 1
        done = end - self.remaining
        begun = self.reused if self.match is None else self.match.length
        first = max(done + 1, begun + LEAST_STRETCH)
        return next((place - done for place in self.places if first <= place < end), None)

    def drop(self, gone: Collection[Row]) -> None:
        """Remove these rows; when none is left, release the match."""
        self.rows = [row for row in self.rows if row not in gone]
        if not self.rows:
            self.release()

    def release(self) -> None:
        """Unpin and forget the match."""
        match, self.match = self.match, None
        if match is not None:
            match.unpin()

    def fill(self, reuse: Reusing) -> None:
        """Copy the match into the cache."""
        if self.match is not None:
            self.cache = reuse.dense(self.match, len(self.ids))
            prompt = len(self.rows[0].request.prompt_ids)
            self.reused += min(self.match.length, prompt) - min(self.computed, prompt)
            self.computed = self.match.length
            self.release()

    def compute(self, model: Model, reuse: Reusing, count: int) -> None:
        """Prefill `count` more tokens and wait for them; full blocks, and the end, are stored.

        Raises:
            PluginFault: an image among them cannot be encoded; nothing is computed then.
            SessionError: everything is computed, but the session cannot be saved.
        """
        self.fill(reuse)
        if count:
            self._advance(model, reuse, count)
        session = self.rows[0].request.session
        if session is not None and session.save and not self.remaining:
            adapter = self.rows[0].request.adapter
            save_session(model, self.keys[:-1], self.cache, Path(session.path), adapter)

    def _advance(self, model: Model, reuse: Reusing, count: int) -> None:
        end = self.computed + count
        ids, embeddings = self.ids[self.computed : end], None
        if model.vision is not None:
            images = self.rows[0].request.images
            embeddings = model.vision.embed(model.module, ids, images, self.computed)
        model(mx.array([ids]), self.cache, embeddings, adapters_of(self.rows[:1]))
        tail = end == len(self.ids) - 1 or end in self.places
        keys, low = self.keys[:end], self.low
        cut = reuse.cut(self.namespace, keys, lambda: self.cache, tail=tail, low=low)
        # Only the caches are evaluated: the logits of a prompt are never computed.
        mx.eval([entry.state for entry in self.cache], cut.arrays if cut else [])
        reuse.store(cut)
        self.computed = end

    def finish(self, reuse: Reusing) -> None:
        """Record in rows that begin how much of their prompt was reused, and stored."""
        fresh = [row for row in self.rows if row.fresh]
        kept = 0
        if fresh and reuse.enabled:
            kept = stored(reuse, self.namespace, self.keys[:-1], low=self.low)
        for place, seconds in self.rows[0].request.retained if kept else ():
            reuse.retain(self.namespace, self.keys[: min(place, len(self.keys) - 1)], seconds)
        for row in fresh:
            row.cached = self.reused
            row.written = max(kept - self.reused, 0)
            row.from_disk = max(self.reused - self.in_memory, 0)


def stored(reuse: Reusing, namespace: str, keys: Sequence[int], *, low: bool = False) -> int:
    """How many tokens of a prompt are in memory. low: see `Reusing`."""
    if (found := reuse.find(namespace, keys, 0, low=low)) is None:
        return 0
    found.unpin()
    return found.length


def find_stored(prompts: Sequence[Prompt], reuse: Reusing, allowed: Allowance) -> None:
    """Find the longest stored prefix of each prompt, if it may be longer than at the last look-up.

    allowed: what may be read from disk, for prompts that are new or wait for more of it.
    """
    for prompt in prompts:
        reads = allowed.tokens is not None and (prompt.seen < 0 or prompt.restoring)
        if reuse.enabled and (prompt.seen != reuse.version or reads):
            if prompt.seen < 0:
                prompt.in_memory = reuse.in_memory(prompt.namespace, prompt.keys[:-1])
            place, low = (prompt.namespace, prompt.keys[:-1]), prompt.low
            if reads:
                prompt.restoring = reuse.restore(*place, allowed, low=low)
            prompt.release()
            prompt.seen = reuse.version
            adapter = prompt.rows[0].request.adapter
            prompt.match = reuse.find(*place, prompt.computed, adapter, low=low)


def kind_of_pass(prompts: Sequence[Prompt], tokens: int) -> Hashable:
    """The kind of a forward pass over prompts, for `Activity.run`.

    tokens: how many are computed of the only prompt.
    """
    first = prompts[0].rows[0].request
    count = tokens if len(prompts) == 1 else max(prompt.remaining for prompt in prompts)
    length = scale(max(len(prompt.ids) for prompt in prompts), CACHE_STEP)
    # Session files are written within the pass, which takes as long as the disk does.
    session = first.id if first.session is not None else None
    reused = any(prompt.match is not None for prompt in prompts)
    rows = len(prompts).bit_length()
    adapters = bool(adapters_of([prompt.rows[0] for prompt in prompts]))
    kind = "prefill", rows, scale(count, PASS), length, reused, bool(first.images), session
    return (*kind, adapters)


def compute_together(model: Model, reuse: Reusing, prompts: Sequence[Prompt]) -> list[Any]:
    """Prefill whole prompts in one forward pass, padded on the right, and wait for it.

    Returns batch caches, one entry per layer, with a row for each prompt. Only caches that
    support padding can do this, see `Model.paddable`. What is computed is stored for reuse.
    """
    for prompt in prompts:
        prompt.fill(reuse)
    counts = [prompt.remaining for prompt in prompts]
    longest = max(counts)
    tokens = np.zeros((len(prompts), longest), dtype=np.int32)
    for row, prompt, count in zip(tokens, prompts, counts, strict=True):
        row[:count] = prompt.ids[prompt.computed : -1]
    caches = zip(*(prompt.cache for prompt in prompts), strict=True)
    merged = [entries[0].merge(list(entries)) for entries in caches]
    for entry in merged:
        entry.prepare(lengths=counts, right_padding=[longest - count for count in counts])
    model(mx.array(tokens), merged, adapters=adapters_of([prompt.rows[0] for prompt in prompts]))
    for entry in merged:
        entry.finalize()
    cuts: list[PendingCopy] = []
    for index, prompt in enumerate(prompts):
        row_cache = partial(extract, merged, index, len(prompt.ids) - 1)
        keys = prompt.keys[:-1]
        cut = reuse.cut(prompt.namespace, keys, row_cache, tail=True, low=prompt.low)
        cuts += [cut] if cut else []
    mx.eval([entry.state for entry in merged], [cut.arrays for cut in cuts])
    for cut in cuts:
        reuse.store(cut)
    return merged


def extract(caches: Sequence[Any], index: int, held: int) -> list[Any]:
    """One row's own cache out of batch caches, one entry per layer; read it before they change.

    held: tokens of the row that they have seen.
    """
    return [row_of(entry, index, held) for entry in caches]
