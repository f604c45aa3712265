"""The README is what a newcomer reads; tests/docs tests its code, commands and links."""

from __future__ import annotations

from pathlib import Path

import pytest

from budmlx import Engine
from tests.docs.pages import ROOT, blocks

PAGE = ROOT / "README.md"
README = PAGE.read_text("utf-8").splitlines()


def test_the_two_commands_are_on_the_first_screen() -> None:
    first_screen = "".join(README[:24])
    assert "make run" in first_screen
    assert "make test" in first_screen
    assert "curl" in first_screen


def test_it_is_short() -> None:
    assert len(README) <= 140


def test_the_plugin_changes_the_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = [block for block in blocks(PAGE) if block.note.startswith("file: ")]
    file = tmp_path / block.note.removeprefix("file: ")
    file.write_text(block.text)
    monkeypatch.syspath_prepend(tmp_path)
    assert f"--plugin {file.stem}\n" in PAGE.read_text("utf-8")
    with Engine.load(plugins=[file.stem]) as engine:
        assert "Answer in one sentence." in engine.apply_template("Hello!").text
