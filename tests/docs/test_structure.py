"""The page about the structure names what there is, and its list for readers stays short."""

from __future__ import annotations

import re

from tests.docs.pages import DOCS, ROOT

PACKAGE = ROOT / "budmlx"
PAGE = (DOCS / "structure.md").read_text("utf-8")
LARGE = frozenset({"assets", "builtin/tool_parsers", "cli/templates", "core/reuse/disk"})
"""Folders that the table of folders names with the one that holds them, or that hold no code."""

MOST_LINES = 7000
"""Of the files in the list for readers."""


def test_every_folder_has_a_line() -> None:
    listed = {folder.rstrip("/") for folder in re.findall(r"^\| `([\w/]*)` \|", PAGE, re.MULTILINE)}
    folders = {
        file.parent.relative_to(PACKAGE).as_posix() for file in PACKAGE.rglob("*/__init__.py")
    }
    assert folders - LARGE <= listed
    assert {folder for folder in listed if folder != "budmlx"} <= folders | LARGE


def test_every_file_that_is_named_exists() -> None:
    named = re.findall(r"`((?:\w+/)+\w+\.py)`", PAGE)
    assert not [name for name in named if not ((PACKAGE / name).exists() or (ROOT / name).exists())]


def test_the_list_for_readers_is_short() -> None:
    part = PAGE.partition("<!-- reading list -->")[2].partition("<!-- end of the")[0]
    files = re.findall(r"`([\w/]+\.py)`", part)
    lines = [len((PACKAGE / name).read_text("utf-8").splitlines()) for name in files]
    assert len(files) > 30 and sum(lines) <= MOST_LINES
