"""Shares: how loaded models divide the bytes that there are for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MIB = 2**20
LEAST_WORK = 32 * MIB
WORK_SHARE = 0.15
"""What a model needs at least beside its weights, for KV and for what it computes: the larger."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A model's part of the memory, in bytes.

    weights: its own, 0 if unknown. most: what it may use even if there is more; None for all.
    """

    weights: int
    most: int | None = None

    @property
    def least(self) -> int:
        """Bytes with which it can serve: its weights, and some to compute with."""
        return self.weights + max(LEAST_WORK, int(WORK_SHARE * self.weights))

    def room(self, total: int) -> int:
        """Bytes beside its weights that it could use of `total`."""
        return max(0, min(total, self.most or total) - self.weights)


def fit(claims: Mapping[str, Claim], total: int) -> bool:
    """Whether models can be loaded together."""
    return sum(claim.least for claim in claims.values()) <= total


def shares(claims: Mapping[str, Claim], total: int) -> dict[str, int]:
    """Bytes for each model: its weights, and an equal part of what all weights leave.

    What a model cannot use for its `most` goes to the others.
    """
    free = max(0, total - sum(claim.weights for claim in claims.values()))
    result = {}
    ascending = sorted(claims.items(), key=lambda item: item[1].room(total))
    for count, (name, claim) in zip(range(len(claims), 0, -1), ascending, strict=True):
        room = min(claim.room(total), free // count)
        result[name] = claim.weights + room
        free -= room
    return result
