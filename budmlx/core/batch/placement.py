"""Placement: which rows share a batch. mlx-lm's batch caches are rectangles padded to the longest
row, so every step costs a group its rectangle plus one more reading of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

# What a forward pass costs beside the bytes it reads (building and starting it), in bytes.
STEP_OVERHEAD = 32 * 2**20
# A merge copies the rectangles, so it must promise more than a few bytes.
MERGE_GAIN = 0.9
# A group whose step costs so many times more for each of its rows is heavy.
HEAVY = 4


class Placement:
    """Compares costs in bytes read per step.

    weights: bytes of the model. rectangle: KV bytes of rows of the given lengths together.
    """

    def __init__(self, weights: int, rectangle: Callable[[Sequence[int]], int]):
        self._alone = weights + STEP_OVERHEAD
        self._rectangle = rectangle

    def cost(self, lengths: Sequence[int]) -> int:
        """Bytes that one step of a group reads."""
        return self._alone + self._rectangle(lengths)

    def choose(self, newcomers: Sequence[int], groups: Sequence[Sequence[int]]) -> int | None:
        """Index of the group that rows of these lengths should join; None: one of their own."""
        best, best_cost = None, self.cost(newcomers)
        for index, lengths in enumerate(groups):
            added = self._rectangle([*lengths, *newcomers]) - self._rectangle(lengths)
            if added < best_cost:
                best, best_cost = index, added
        return best

    def merge(self, groups: Sequence[Sequence[int]]) -> tuple[int, int] | None:
        """Indices of two groups that should become one, or None."""
        for i, first in enumerate(groups):
            for j in range(i + 1, len(groups)):
                apart = self.cost(first) + self.cost(groups[j])
                if self.cost([*first, *groups[j]]) < MERGE_GAIN * apart:
                    return i, j
        return None

    def heavy(self, groups: Sequence[Sequence[int]]) -> list[bool]:
        """Which groups should decode only in every other step, so that a row of great length
        does not halve the pace of many short ones.
        """
        costs = [self.cost(lengths) / len(lengths) for lengths in groups]
        least = min(costs, default=0)
        return [cost > HEAVY * least for cost in costs]
