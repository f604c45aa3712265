"""A disk that cannot be written, or has no room for a file: what fails says what to do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.models import tiny_model_dir

ROOT = Path(__file__).parents[2]
RUN = ["unshare", "-rm"]


def has_mounts() -> bool:
    """Whether this user may mount something in a space of its own."""
    if shutil.which("unshare") is None:
        return False
    script = "mount -t tmpfs none /mnt && test -e /proc/self/fd/2"
    return subprocess.run([*RUN, "sh", "-c", script], capture_output=True).returncode == 0


@pytest.mark.skipif(not has_mounts(), reason="no mounts of its own without privileges")
def test_what_cannot_be_kept_says_so_and_the_rest_goes_on(tmp_path: Path) -> None:
    # LIMITS 121 and 134
    command = [*RUN, sys.executable, "-m", "tests.server.read_only_disk"]
    done = subprocess.run(
        [*command, str(tmp_path), str(tiny_model_dir(scale=2.0))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name, setting in (("store", "store"), ("files", "files_dir")):
        assert found[name].startswith(f"{setting}: {tmp_path}/ro"), found
        assert "Read-only file system. Name a place that this user can write" in found[name]
    assert found["log"] == f"log_file: {tmp_path}/ro/log cannot be written: Read-only file system."
    assert found["reply"] == found["again"]
    assert found["sealed"] == "", "each has a key of its own then"
    said = found["lines"]
    assert "cannot be used (Read-only file system): reasoning that clients" in said
    assert said.count("KV of prompts cannot be kept on disk: [Errno 30]") == 1
    assert found["full"] == "/dev/null"
