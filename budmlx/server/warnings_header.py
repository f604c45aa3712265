"""The `x-budmlx-warnings` header, for protocols whose bodies have no place for warnings."""

from __future__ import annotations

import json
from collections.abc import Sequence

NAME = "X-Budmlx-Warnings"
MAX_BYTES = 4096
"""Clients refuse lines of headers that are much longer than this."""
MAX_COUNT = 64


def warnings_header(warnings: Sequence[str]) -> dict[str, str]:
    """The header with these warnings, a JSON list in ASCII; no header if there are none.

    Warnings that do not fit are counted in the last item of the list.
    """
    if not warnings:
        return {}
    kept = [json.dumps(each) for each in warnings[:MAX_COUNT]]
    size = sum(len(each) + 2 for each in kept)  # with the brackets, and ", " between them
    while size + sum(len(each) + 2 for each in _hidden(len(warnings) - len(kept))) > MAX_BYTES:
        size -= len(kept.pop()) + 2
    return {NAME: f"[{', '.join([*kept, *_hidden(len(warnings) - len(kept))])}]"}


def _hidden(count: int) -> Sequence[str]:
    return [json.dumps(f"and {count} more")] if count else []
