"""Which changes are drawn, and that they are made where they should be."""

from __future__ import annotations

import ast

import pytest

from tests.mutants.changes import Change, changes_of

SOURCE = '''
LIMIT = 5

def f(a: int | None, b: str = "word") -> int:
    """A text."""
    if a is not None and "é" < b:
        log(f"{a + 1}")
        return a + 1
    return 0
'''


def test_each_change_stands_in_its_place() -> None:
    found = changes_of(SOURCE)
    assert [(each.before, each.after) for each in found] == [
        ("a is not None", "(a is None)"),
        ('a is not None and "é" < b', "(a is not None or 'é' < b)"),
        ('"é" < b', "('é' <= b)"),
        ('"é"', "('é_')"),
        ('log(f"{a + 1}")', "pass"),
        ("return a + 1", "return None"),
        ("a + 1", "(a - 1)"),
        ("1", "(2)"),
        ("return 0", "return None"),
        ("0", "(1)"),
    ]
    for each in found:
        assert each.function == "f"
        changed = each.applied(SOURCE)
        assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(SOURCE))


def test_a_source_that_is_another_is_refused() -> None:
    with pytest.raises(ValueError, match="does not hold"):
        Change("f", 1, 0, "nothing", "pass").applied(SOURCE)
