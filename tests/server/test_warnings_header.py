"""Warnings in a header are ASCII, bounded, and readable as JSON."""

from __future__ import annotations

import json

from budmlx.server.security import EXPOSED
from budmlx.server.warnings_header import MAX_BYTES, NAME, warnings_header


def test_warnings() -> None:
    assert warnings_header([]) == {}
    found = warnings_header(["`a\r\nb` was ignored.", "猫"])
    assert json.loads(found[NAME]) == ["`a\r\nb` was ignored.", "猫"]
    assert found[NAME].isascii() and "\n" not in found[NAME]
    assert NAME in EXPOSED


def test_many_warnings_are_counted() -> None:
    text = warnings_header(["猫" * 100] * 50)[NAME]
    *kept, last = json.loads(text)
    assert len(text) <= MAX_BYTES and len(kept) == 6 and last == "and 44 more"
