"""The `x-budmlx-warnings` header, for protocols whose bodies have no place for warnings."""

from __future__ import annotations

import json
from collections.abc import Sequence

NAME = "X-Budmlx-Warnings"
MAX_BYTES = 4096
"""Clients refuse lines of headers that are much longer than this."""


def warnings_header(warnings: Sequence[str]) -> dict[str, str]:
    """The header with these warnings, a JSON list in ASCII; no header if there are none.

    Warnings that do not fit are counted in the last item of the list.
    """
    if not warnings:
        return {}
    kept = list(warnings)
    while len(text := _listed(kept, len(warnings) - len(kept))) > MAX_BYTES:
        kept.pop()
    return {NAME: text}


def _listed(kept: Sequence[str], hidden: int) -> str:
    return json.dumps([*kept, *([f"and {hidden} more"] if hidden else [])])
