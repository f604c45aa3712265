"""What rows of docs/limits.md were measured to be: `make limits` and `make soak` show one table.

A test says it with the fixture `measured`. With KEEP_LIMITS=1 the rows replace those of the page.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench import machine

PAGE = Path(__file__).parents[1] / "docs" / "limits.md"
_PROMISE = re.compile(r"^\| (L?\d+) \| (.*?) \| (.*?) \|$", re.MULTILINE)
_KEPT = re.compile(r"(<!-- measured -->\n)(.*?)(<!-- end of what was measured -->)", re.DOTALL)
_ROW = re.compile(r"^\| (L?\d+) \| .*$", re.MULTILINE)

Measured = Callable[[str, str], None]


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Measured:
    """Says what a row was measured to be: `measured("L3", "0 rows left after 0.1 s")`."""
    return lambda row, text: record_property("measured", [row, text])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the table, and keep it, where one is asked for."""
    if terminalreporter.config.getoption("markexpr") not in ("limits", "soak"):
        return
    reports = [each for kind in ("passed", "failed") for each in terminalreporter.getreports(kind)]
    found = dict(_found(reports))
    if not found:
        return
    rows = {row: line(row, text) for row, text in found.items()}
    for each in (*HEAD, *in_order(rows)):
        terminalreporter.write_line(each)
    if os.environ.get("KEEP_LIMITS"):
        PAGE.write_text(kept(PAGE.read_text("utf-8"), rows), "utf-8")


def _found(reports: list[pytest.TestReport]) -> Iterator[tuple[str, str]]:
    for report in reports:
        for name, value in report.user_properties:
            if name == "measured" and report.when == "call" and isinstance(value, list):
                row, text = value
                yield row, text if report.passed else f"FAILED: {text}"


HEAD = ("| # | Promise | Line | Measured |", "|---|---|---|---|")


def line(row: str, text: str) -> str:
    """A row of the table, with its date."""
    promised = {match[1]: (match[2], match[3]) for match in _PROMISE.finditer(promises())}
    return f"| {row} | {' | '.join(promised[row])} | {text}; {time.strftime('%Y-%m-%d')} |"


def promises() -> str:
    """The page up to what was measured."""
    return PAGE.read_text("utf-8").partition("## Measured")[0]


def in_order(rows: dict[str, str]) -> list[str]:
    """Rows in the order of the page."""
    return [
        rows[row] for row in sorted(rows, key=lambda row: (row[0] == "L", int(row.lstrip("L"))))
    ]


def kept(page: str, rows: dict[str, str]) -> str:
    """A page with these rows, and its others as they were."""
    match = _KEPT.search(page)
    assert match is not None
    before = {row[1]: row[0] for row in _ROW.finditer(match[2])}
    table = "\n".join((*HEAD, *in_order({**before, **rows})))
    about = f"On {name_of_this_machine()}."
    return _KEPT.sub(lambda found: f"{found[1]}\n{about}\n\n{table}\n\n{found[3]}", page)


def name_of_this_machine() -> str:
    """What it computes on."""
    found = machine.describe()
    return f"{machine.device().name}, {found['memory']}, {found['system']}, MLX {found['mlx']}"
