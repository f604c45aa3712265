"""A server process with the shipped model, for clients of whatever environment."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "clients"
KEY = "your-key"
"""The key that documented code has in it."""


@contextmanager
def started(**settings: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server that takes `KEY`: its address and its process. settings: of the environment.

    BUDMLX_PYTHON: the interpreter that has budmlx, if this one has not.
    """
    python = os.environ.get("BUDMLX_PYTHON", sys.executable)
    # Documented code asks for models of many names.
    demo = [] if "BUDMLX_MODEL" in settings else ["--demo"]
    process = subprocess.Popen(
        [python, "-m", "budmlx", "serve", *demo, "--port", "0"],
        cwd=ROOT,
        env={**os.environ, "BUDMLX_API_KEYS": KEY, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    match = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
    assert match is not None, "the server did not start"
    yield match[0], process
    process.terminate()
    process.communicate()


@contextmanager
def served() -> Iterator[str]:
    """The address of a server that takes `KEY`."""
    with started() as (url, _):
        yield url
