"""Trials: the suspects of a fault of the device run by halves, until it is known whose it was."""

from __future__ import annotations

from collections.abc import Sequence

from budmlx.core.row import Row


class Trials:
    """Divides suspects; each half is a trial, whose rows may run beside each other."""

    def __init__(self) -> None:
        self._count = 0

    def condemn(self, rows: Sequence[Row]) -> Row | None:
        """Make suspects of the rows that were at work; returns the row that it was, if known.

        If one half was on trial, only it and newcomers are halved again, and a single row was it.
        """
        trials = _trials(rows)
        suspects = [row for row in rows if row.trial in {0, *trials}] if trials else rows
        if trials and len(suspects) == 1:
            return suspects[0]
        middle = (len(suspects) + 1) // 2
        for half in (suspects[:middle], suspects[middle:]):
            self._count += 1
            for row in half:
                row.quarantine(self._count)
        return None


def may_start(row: Row, at_work: Sequence[Row]) -> bool:
    """Whether no suspect of another trial than this one's is at work."""
    return not _trials(at_work) - {row.trial}


def _trials(rows: Sequence[Row]) -> set[int]:
    return {row.trial for row in rows if row.quarantined}
