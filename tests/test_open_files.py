"""The limit of open files is raised as far as the system allows."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator

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
