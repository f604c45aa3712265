"""Warnings in a header are ASCII, bounded, and readable as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator

from budmlx.server.security import EXPOSED
from budmlx.server.warnings_header import MAX_BYTES, MAX_COUNT, NAME, warnings_header


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


def test_a_header_may_be_full_to_the_last_byte() -> None:
    whole = ["a" * (MAX_BYTES // 2 - 4), "b" * (MAX_BYTES // 2 - 4)]
    text = warnings_header(whole)[NAME]
    assert json.loads(text) == whole and len(text) == MAX_BYTES
    assert json.loads(warnings_header([whole[0] + "a", whole[1]])[NAME])[1:] == ["and 1 more"]
    assert json.loads(warnings_header(["a" * MAX_BYTES])[NAME]) == ["and 1 more"]


def test_no_more_than_some_are_written() -> None:
    class Seen(list[str]):
        def __iter__(self) -> Iterator[str]:
            raise AssertionError("all were read")

    *kept, last = json.loads(warnings_header(Seen(["w"] * 100_000))[NAME])
    assert kept == ["w"] * MAX_COUNT and last == f"and {100_000 - MAX_COUNT} more"
