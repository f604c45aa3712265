"""A server in a process of its own. Standard library only, for environments without budmlx."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def started(
    *options: str,
    environment: Mapping[str, str],
    python: str = sys.executable,
    cwd: Path | None = None,
    files: Sequence[int] = (),
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address and the process of `budmlx serve`. options: of the command.

    files: open files that it gets, too.
    """
    process = subprocess.Popen(
        [python, "-m", "budmlx", "serve", *options],
        cwd=cwd,
        env=environment,
        pass_fds=files,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        match = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
        assert match is not None, "the server did not start"
        yield match[0], process
    finally:
        process.terminate()
        process.communicate()
