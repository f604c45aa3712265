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
def served() -> Iterator[str]:
    """The address of a server that takes `KEY`.

    BUDMLX_PYTHON: the interpreter that has budmlx, if this one has not.
    """
    process = subprocess.Popen(
        [os.environ.get("BUDMLX_PYTHON", sys.executable), "-m", "budmlx", "serve", "--port", "0"],
        cwd=ROOT,
        env={**os.environ, "BUDMLX_API_KEYS": KEY},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    match = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
    assert match is not None, "the server did not start"
    yield match[0]
    process.terminate()
    process.communicate()
