"""The README is what a newcomer reads; tests/docs tests its code, commands and links."""

from __future__ import annotations

from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8").splitlines()


def test_the_two_commands_are_on_the_first_screen() -> None:
    first_screen = "".join(README[:24])
    assert "make run" in first_screen
    assert "make test" in first_screen
    assert "curl" in first_screen


def test_it_is_short() -> None:
    assert len(README) <= 130
