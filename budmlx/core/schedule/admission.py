"""Admission: whether rows fit into memory together, before they start and while they grow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from budmlx.core.batch.placement import Placement
from budmlx.core.model.memory import CACHE_STEP, MemoryModel
from budmlx.core.row import Row
from budmlx.protocol import GenerateRequest
from budmlx.types import ModelInfo

Lengths = Sequence[Sequence[int]]
"""Tokens of each row, by group."""


class Admission:
    """Projects the bytes of rows against the memory limit.

    What is kept for reuse does not count, since rows have priority: it gets what they leave.
    reserved: bytes of it that cannot go.
    """

    def __init__(self, info: ModelInfo, memory: MemoryModel, chunk: int):
        self.reserved = 0
        self._batchable = info.batchable
        self._memory = memory
        self._placement = Placement(memory.weights, memory.rectangle)
        self._chunk = chunk
        self._longest = memory.longest_row(info.context_length, chunk)

    @property
    def longest(self) -> int:
        """Most tokens that a row alone may have, prompt and completion together."""
        return self._longest

    def fitting(self, request: GenerateRequest) -> GenerateRequest | None:
        """The request with no more tokens than a row alone may have; None if none are left."""
        room = self._longest - len(request.prompt_ids)
        if room < 1:
            return None
        return msgspec.structs.replace(request, max_tokens=min(request.max_tokens, room))

    def joined(self, groups: Lengths, rows: Iterable[Row]) -> list[list[int]]:
        """Lengths when caches have grown by a cache step and `rows` have joined the groups."""
        plan = _grown(groups)
        for row in rows:
            room = min(CACHE_STEP, row.request.max_tokens - row.produced)
            length = len(row.ids) + room
            index = self._placement.choose([length], plan) if self._batchable else None
            if index is None:
                plan.append([length])
            else:
                plan[index].append(length)
        return plan

    def fits(self, groups: Lengths) -> bool:
        """Whether these rows may run together; a row alone always may."""
        alone = len(groups) == 1 and len(groups[0]) == 1
        needed = self._memory.total(groups, self._chunk) + self.reserved
        return alone or needed <= self._memory.limit

    def spare(self, groups: Lengths) -> int:
        """Bytes of the limit that these rows leave, even if their caches grow now."""
        return self._memory.limit - self._memory.total(_grown(groups), self._chunk)


def _grown(groups: Lengths) -> list[list[int]]:
    return [[n + CACHE_STEP for n in group] for group in groups]
