"""The limit of open files is raised as far as the system allows."""

from __future__ import annotations

import contextlib
import re
import resource
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from budmlx.open_files import MOST, raise_open_files_limit


@pytest.fixture
def hard() -> Iterator[int]:
    """The hard limit, or `MOST` where it is none or higher; the soft one is restored."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield MOST if before[1] == resource.RLIM_INFINITY else min(before[1], MOST)
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def set_soft(limit: int) -> None:
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    )


def test_a_low_limit_is_raised(hard: int) -> None:
    set_soft(256)
    assert raise_open_files_limit() == hard > 256
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard


def test_a_high_limit_is_kept() -> None:
    soft, top = resource.getrlimit(resource.RLIMIT_NOFILE)
    if top != resource.RLIM_INFINITY and top <= MOST:
        pytest.skip(f"the hard limit is {top}")
    try:
        set_soft(MOST + 1)
        assert raise_open_files_limit() == MOST + 1
    finally:
        set_soft(soft)


def test_the_hard_limit_is_the_most() -> None:
    code = "from budmlx.open_files import raise_open_files_limit; print(raise_open_files_limit())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (100, 300)),
    )
    assert done.stdout == "300\n"


def connect(address: tuple[str, int]) -> socket.socket | None:
    try:
        return socket.create_connection(address, timeout=5)
    except OSError:
        return None


@pytest.mark.parametrize("limit", [80, 256])
def test_a_server_with_few_of_them(limit: int, tmp_path: Path) -> None:  # LIMITS 26
    log = tmp_path / "log"
    command = [sys.executable, "-m", "budmlx", "serve", "--demo", "--port", "0"]
    with log.open("wb") as stderr:
        server = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)),
        )
    try:
        assert server.stdout is not None
        url = re.search(r"http://127\.0\.0\.1:(\d+)", server.stdout.readline())
        assert url is not None, log.read_text()
        idle = [connect(("127.0.0.1", int(url[1]))) for _ in range(300)]
        time.sleep(2)
        for each in filter(None, idle):
            each.close()
        for _ in range(100):  # until the server has seen that they are closed
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url[0]}/v1/models"):
                break
            time.sleep(0.1)
        else:
            pytest.fail("nobody is served any more")
        assert psutil.Process(server.pid).cpu_times().user < 30
    finally:
        server.terminate()
        server.wait()
    said = log.read_text()
    assert "Traceback" not in said
    assert said.count("too many files are open") <= 1 and len(said) < 10_000


def test_loading_a_core_leaves_the_limits_alone() -> None:
    code = (
        "import resource; from budmlx.backend import importing_mlx\n"
        "with importing_mlx(): import mlx_lm.utils\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (200, 300)),
    )
    assert done.stdout == "(200, 300)\n"
