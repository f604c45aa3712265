"""How many files a reader must open to follow one streamed chat."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.amount import usually
from tests.follow import functions

# It may only become less.
MOST_FILES = {"thread": 56, "process": 60}


@pytest.mark.parametrize("host", usually("process".__eq__, MOST_FILES))
def test_one_streamed_chat_stays_in_few_files(host: str) -> None:
    command = [sys.executable, "-m", "tests.follow", "--host", host]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=True)
    *lines, last = done.stdout.splitlines()
    found = re.fullmatch(r"(\d+) files, \d+ functions \(\d+ lines\), \d+ lines of files", last)
    assert found is not None, last
    # What runs in any thread, and in the core wherever that is.
    for name in ("server/transport.py", "engine/engine.py", "core/schedule/scheduler.py"):
        assert any(line.startswith(f"{name}: ") for line in lines), done.stdout
    assert 30 < int(found[1]) <= MOST_FILES[host], done.stdout


def test_functions_begin_where_the_interpreter_says_so() -> None:
    places = dict(functions(ast.parse(Path(__file__).read_text("utf-8"))))
    for function in (
        test_one_streamed_chat_stays_in_few_files,
        test_functions_begin_where_the_interpreter_says_so,
    ):
        assert places[function.__name__][0] == function.__code__.co_firstlineno
