"""Disk read budget: the tokens of KV that a step may read from disk, so that running rows keep
streaming. It is learned from what plans report: no clock is read here.
"""

from __future__ import annotations

from budmlx.core.batch.states import DiskRead

# Seconds of a step for reading from disk, while others generate and while nobody does.
SHORT_READ = 0.02
LONG_READ = 0.25
# Weight of the newest measurement of the disk.
NEWEST_READ = 0.3
# What a block that is computed because the disk was slow takes off the memory of that.
FORGIVENESS = 0.95


class DiskReadBudget:
    """The tokens of KV that a step may read from disk, by what reading cost before.


    short_read, long_read: seconds that a step may spend on it while others generate, and while
    nobody does.
    """

    def __init__(self, short_read: float = SHORT_READ, long_read: float = LONG_READ):
        self._short = short_read
        self._long = long_read
        self._seconds = 0.0
        self._tokens = 0.0

    def allowance(self, *, alone: bool, per_token: float | None) -> int:
        """Tokens that this step may read; 0 where computing them is faster.

        alone: nobody generates. per_token: seconds that computing a token takes, if known.
        """
        if not self._tokens:
            return 1
        cost = self._seconds / self._tokens
        if per_token is not None and cost > per_token:
            return 0
        return max(1, int((self._long if alone else self._short) / max(cost, 1e-9)))

    def learn(self, disk: DiskRead) -> None:
        """Record what one plan read."""
        self._seconds *= FORGIVENESS**disk.declined
        if disk.tokens:
            # Sums, not a mean of ratios: a short block takes as long to open.
            self._seconds = (1 - NEWEST_READ) * self._seconds + disk.seconds
            self._tokens = (1 - NEWEST_READ) * self._tokens + disk.tokens
