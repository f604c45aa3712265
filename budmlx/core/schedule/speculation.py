"""Speculation: how many tokens the rows of a group draft in the next step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from budmlx.core.row import Row
from budmlx.core.schedule.view import GroupView

Setting = Literal["auto"] | int
"""What `--speculation` says: how many tokens are drafted at most; 0 for none."""


class Speculation:
    """Says how many tokens are drafted. setting: always so many, where there are drafts."""

    def __init__(self, setting: Setting):
        self._fixed = 0 if setting == "auto" else setting

    def drafted(self, groups: Sequence[GroupView]) -> list[int]:
        """Most tokens that the rows of each group draft now; empty if none do."""
        drafted = [self._most(group.rows) for group in groups]
        return drafted if any(drafted) else []

    def _most(self, rows: Sequence[Row]) -> int:
        return self._fixed if any(row.drafts and row.drafts.draft(1) for row in rows) else 0
