"""The generated parts of the documentation agree with the code."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.generate import PARTS, WHOLE, current, generated, parts
from tests.docs.pages import name


@pytest.mark.parametrize("page", generated(), ids=name)
def test_it_is_current(page: Path) -> None:
    assert page.read_text("utf-8") == current(page), "run: make docs"


def test_every_part_is_somewhere() -> None:
    used = [part for page in generated() if page not in WHOLE for part in parts(page)]
    assert sorted(used) == sorted(PARTS)
