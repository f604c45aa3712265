"""The pages of the documentation as data: code blocks, links, headings."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
INDEX = DOCS / "index.md"

ADDRESS = "http://127.0.0.1:8080"
"""Where the pages' examples expect a server."""

_FENCE = re.compile(r"(`{3,})(\w*)")
_COMMENT = re.compile(r"<!-- (.*) -->")
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")
_HEADING = re.compile(r"#{1,6} +(.+)")


@dataclass(frozen=True, slots=True)
class Block:
    """A code block. line: of its first line of code, from 1.

    note: the HTML comment in the line before the fence. It says how the block is tested, where
    its language alone does not; see `test_snippets`.
    """

    page: Path
    line: int
    language: str
    note: str
    text: str

    def __str__(self) -> str:
        return f"{name(self.page)}:{self.line}"


def guides() -> list[Path]:
    """The pages whose code blocks are tested."""
    return [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "SECURITY.md",
        *sorted(DOCS.glob("*.md")),
    ]


def pages() -> list[Path]:
    """All pages, those of decisions, plugins and examples included."""
    patterns = ("docs/*/*.md", "plugins/*/README.md", "examples/*/README.md", "bench/*.md")
    others = sorted(page for pattern in patterns for page in ROOT.glob(pattern))
    return [*guides(), ROOT / "CHANGELOG.md", *others]


def name(page: Path) -> str:
    """A page's path within the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[Block]:
    """The code blocks of a page, in order."""
    lines = page.read_text("utf-8").splitlines()
    at = 0
    while at < len(lines):
        match = _FENCE.match(lines[at])
        if match is None:
            at += 1
            continue
        end = lines.index(match[1], at + 1)
        comment = _COMMENT.fullmatch(lines[at - 1]) if at else None
        text = "".join(f"{line}\n" for line in lines[at + 1 : end])
        yield Block(page, at + 2, match[2], comment[1] if comment else "", text)
        at = end + 1


def prose(page: Path) -> str:
    """A page without its code blocks."""
    text = page.read_text("utf-8")
    return re.sub(r"^(`{3,}).*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)


def inline_code(page: Path) -> list[str]:
    """What stands between single backticks."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def links(page: Path) -> list[str]:
    """The targets of a page's links."""
    return _LINK.findall(re.sub(r"`[^`\n]+`", "code", prose(page)))


def anchors(page: Path) -> set[str]:
    """What links to headings of a page may name, by GitHub's rules."""
    found: Counter[str] = Counter()
    result = set()
    for line in prose(page).splitlines():
        if match := _HEADING.fullmatch(line.rstrip()):
            title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", match[1])
            anchor = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
            result.add(f"{anchor}-{found[anchor]}" if found[anchor] else anchor)
            found[anchor] += 1
    return result
