"""The file of the log: everything goes there, and it stays small."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from budmlx.errors import ConfigError
from budmlx.log_file import KEPT, rotate, take_over

PROGRAM = """
import os, subprocess, sys
from pathlib import Path
from budmlx import log_file
print("before", file=sys.stderr, flush=True)
log_file.take_over(Path(sys.argv[1]))
print("own", file=sys.stderr, flush=True)
subprocess.run([sys.executable, "-c", "import sys; print('child', file=sys.stderr)"])
log_file.rotate(Path(sys.argv[1]), most=5)
print("after", file=sys.stderr, flush=True)
"""


def test_all_of_the_standard_error_stream_goes_there(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "log"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stderr == "before\n"
    assert (tmp_path / "folder" / "log.1").read_text() == "own\nchild\n"
    assert path.read_text() == "after\n"
    assert path.stat().st_mode & 0o777 == (tmp_path / "folder" / "log.1").stat().st_mode & 0o777


def test_a_few_older_files_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "log"
    writer = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for number in range(KEPT + 3):
        os.write(writer, f"{number:09}\n".encode())
        rotate(path, most=5)
    os.close(writer)
    found = {each.name: each.read_text() for each in tmp_path.iterdir()}
    last = KEPT + 3
    assert found == {"log": ""} | {
        f"log.{number}": f"{last - number:09}\n" for number in range(1, KEPT + 1)
    }


def test_a_small_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("12345")
    rotate(path, most=5)
    assert [each.name for each in tmp_path.iterdir()] == ["log"]


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="log_file"):
        take_over(tmp_path / "file" / "log")
