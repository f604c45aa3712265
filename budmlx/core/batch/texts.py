"""Texts: computes the vectors of texts, by passes that keep nothing of them."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np

from budmlx.core.activity import Activity
from budmlx.core.batch.plan import Embed
from budmlx.core.model.device_faults import is_device_fault
from budmlx.core.model.embedder import Embedder
from budmlx.core.model.memory import CACHE_STEP, scale
from budmlx.core.model.model import Model
from budmlx.core.model.pooling import Pooled
from budmlx.protocol import EmbedRequest, Vector

log = logging.getLogger(__name__)

# Passes of fewer tokens are of one kind; see `PASS` of prompts.
PASS = 32


@dataclass(slots=True)
class _Open:
    """A request, and its text that is computed in several passes.

    done: vectors so far. computed: tokens that `cache` holds and `pooled` knows.
    """

    request: EmbedRequest
    done: int = 0
    cache: list[Any] = field(default_factory=list)
    pooled: Pooled | None = None
    computed: int = 0

    def forget(self) -> None:
        """Drop what is computed of the text."""
        self.cache, self.pooled, self.computed = [], None, 0


class Texts:
    """The requests for vectors that plans may name, by their ids.

    A model without embedder has none.
    """

    def __init__(self, model: Model):
        self._embedder = model.embedder
        self.requests: dict[int, _Open] = {}

    @property
    def whole(self) -> bool:
        """Whether a text is never computed in parts."""
        return self._embedder is not None and self._embedder.new_cache is None

    def add(self, request: EmbedRequest) -> None:
        """Register a request."""
        self.requests[request.id] = _Open(request)

    def drop(self, ids: Iterable[int]) -> None:
        """Forget requests; unknown ids are ignored."""
        for request_id in ids:
            self.requests.pop(request_id, None)

    def forget(self) -> None:
        """Drop all that is computed, since it is in doubt."""
        for each in self.requests.values():
            each.forget()

    def run(self, embed: Embed, activity: Activity) -> tuple[list[Vector], list[list[int]]]:
        """Run one pass; returns its vectors and, as in `Result.faults`, what raised.

        Faults of the device are raised.
        """
        activity.run(self._kind(embed))
        try:
            return self.compute(embed), []
        except Exception as error:
            log.exception("a pass over %d texts failed", len(embed.texts))
            if is_device_fault(error):
                raise
            mx.clear_cache()
            self.forget()
            return [], [sorted({request_id for request_id, _ in embed.texts})]

    def compute(self, embed: Embed) -> list[Vector]:
        """Run one pass and wait for it; returns the vectors that it completes."""
        assert self._embedder is not None
        if embed.tokens:
            return self._part(self._embedder, *embed.texts[0], embed.tokens)
        return self._together(self._embedder, embed.texts)

    def _kind(self, embed: Embed) -> Hashable:
        lengths = [len(self.requests[i].request.texts[number]) for i, number in embed.texts]
        count = embed.tokens or max(lengths)
        length = scale(max(lengths), CACHE_STEP) if embed.tokens else 0
        return "embed", len(lengths).bit_length(), scale(count, PASS), length

    def _together(self, embedder: Embedder, texts: Sequence[tuple[int, int]]) -> list[Vector]:
        """Vectors of whole texts, padded on the right, which changes nothing in front of it."""
        ids = [self.requests[request_id].request.texts[number] for request_id, number in texts]
        lengths = [len(each) for each in ids]
        tokens = np.zeros((len(ids), max(lengths)), dtype=np.int32)
        for row, each in zip(tokens, ids, strict=True):
            row[: len(each)] = each
        seconds = self._seconds(texts)
        found = embedder.vectors(mx.array(tokens), lengths, self._skip(texts), seconds)
        vectors = np.array(found, dtype="<f4")
        pairs = zip(texts, vectors, strict=True)
        return [self._vector(*text, vector.tobytes()) for text, vector in pairs]

    def _part(self, embedder: Embedder, request_id: int, number: int, count: int) -> list[Vector]:
        """Compute `count` further tokens of one text; its vector, if they are the last."""
        this = self.requests[request_id]
        ids, begin = this.request.texts[number], this.computed
        if not begin:
            assert embedder.new_cache is not None
            this.cache = embedder.new_cache()
        part, skip = ids[begin : begin + count], self._skip([(request_id, number)])
        states = embedder.part(mx.array([part]), this.cache)
        this.pooled = embedder.pooler.add(this.pooled, states, [len(ids)], begin, skip)
        this.computed += len(part)
        if this.computed < len(ids):
            mx.eval([entry.state for entry in this.cache], this.pooled.parts)
            return []
        vector = np.array(embedder.pooler.finish(this.pooled, skip), dtype="<f4")
        this.forget()
        return [self._vector(request_id, number, vector.tobytes())]

    def _skip(self, texts: Sequence[tuple[int, int]]) -> mx.array:
        """For each text, how many of its first tokens are not pooled: [texts, 1]."""
        pairs = [(self.requests[request_id].request.skips, number) for request_id, number in texts]
        return mx.array([[skips[number] if skips else 0] for skips, number in pairs])

    def _seconds(self, texts: Sequence[tuple[int, int]]) -> list[int]:
        """Where the second text of each pair begins, behind the end for what is none."""
        requests = [self.requests[request_id].request for request_id, _ in texts]
        if not any(request.seconds for request in requests):
            return []
        pairs = zip(requests, texts, strict=True)
        return [r.seconds[n] if r.seconds else len(r.texts[n]) for r, (_, n) in pairs]

    def _vector(self, request_id: int, number: int, values: bytes) -> Vector:
        this = self.requests[request_id]
        this.done += 1
        return Vector(request_id, number, values, last=this.done == len(this.request.texts))
