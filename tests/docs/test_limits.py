"""Every promise of docs/limits.md has a test that names it, or says why there is none."""

from __future__ import annotations

import re

from tests.docs.pages import DOCS, ROOT

PAGE = DOCS / "limits.md"
PROMISES, _, WITHOUT = (
    PAGE.read_text("utf-8").partition("## Measured")[0].partition("## Without a test")
)
ROW = re.compile(r"^\| (L?\d+) \|", re.MULTILINE)
# As in "LIMITS 1 to 3, 7 and L2".
TAG = re.compile(r"LIMITS ((?:L?\d+(?:, | and | to )?)+)")


def named() -> set[str]:
    """The rows that tests name."""
    found: set[str] = set()
    for folder in (ROOT / "tests", ROOT / "plugins"):
        for path in folder.rglob("test_*.py"):
            for tag in TAG.findall(path.read_text("utf-8")):
                for part in re.split(r", | and ", tag):
                    first, _, last = part.partition(" to ")
                    numbers = range(int(first), int(last) + 1) if last else (first,)
                    found.update(str(number) for number in numbers if number)
    return found


def test_every_row_has_a_test_or_a_reason() -> None:
    promised, excused = ROW.findall(PROMISES), ROW.findall(WITHOUT)
    assert len(promised) == len(set(promised)) == 156
    assert set(promised) - named() == set(excused)


def test_tests_name_rows_that_there_are() -> None:
    assert named() <= set(ROW.findall(PROMISES))
