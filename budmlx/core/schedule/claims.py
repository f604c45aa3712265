"""Claims: an owner that has waited for a while without a row at work takes a place of another's.

No clock is read here: waiting is counted in the seconds of computing that results report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from budmlx.core.row import Row
from budmlx.core.schedule.admission import FairQueue

# Seconds of computing after which an owner without a row at work claims a place. A pass over
# prompts takes up to a second, so that with this a request begins within two.
CLAIM_SECONDS = 0.5
# A row that came in by a claim, or came back, produces this many tokens before it makes way.
TURN = 16


class Claims:
    """How long owners have waited without a row at work, and which rows make way for them.

    An owner claims a place for the row at the head of its line once it has waited for
    `CLAIM_SECONDS`. For it the youngest row of the owner with most rows at work is sent back,
    further ones only if the newcomer would not fit into memory. That row returns to the head of
    its own line, and its KV is kept.

    Two things keep rows from pushing each other out again and again. A row that was sent back
    waits twice as long for its next claim, every time. And a row that came in by a claim, or
    came back, is not taken for another claim before it has had its turn, see `begin_turn`.

    waited: seconds of each owner that waits now without a row at work.
    """

    def __init__(self, waiting: FairQueue, seconds: float = CLAIM_SECONDS):
        self._waiting = waiting
        self._seconds = seconds
        self.waited: dict[str, float] = {}
        self._computed = 0.0

    def computed(self, seconds: float) -> None:
        """Record how long a plan took."""
        self._computed += seconds

    def wait(self, at_work: Sequence[Row]) -> None:
        """Count what was computed since the last call for those who wait without a row at work."""
        owners = self._waiting.owners - {row.request.owner for row in at_work}
        self.waited = {owner: self.waited.get(owner, 0.0) + self._computed for owner in owners}
        self._computed = 0.0

    def claimant(self) -> Row | None:
        """The row whose claim is due for longest, if there is one."""
        due: dict[Row, float] = {}
        for owner, waited in self.waited.items():
            row = self._waiting.head(owner)
            patience = self._seconds * 2.0 ** min(row.sent_back, 30)
            if waited >= patience and not row.quarantined:
                due[row] = waited - patience
        return max(due, key=due.__getitem__) if due else None

    def grant(self, row: Row) -> None:
        """Record that a claimant starts."""
        del self.waited[row.request.owner]
        begin_turn(row)

    def to_displace(self, at_work: Sequence[Row]) -> Row | None:
        """The row that makes way next; None if every row has its turn.

        at_work: the oldest first.
        """
        busy = Counter(row.request.owner for row in at_work)
        others = [row for row in at_work if row.produced >= row.turn_until]
        most = max((busy[row.request.owner] for row in others), default=0)
        return next((row for row in reversed(others) if busy[row.request.owner] == most), None)


def begin_turn(row: Row) -> None:
    """Let a row produce some tokens before it can be displaced."""
    row.turn_until = row.produced + TURN
