"""Memory of a process in control groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from budmlx.machine_memory import machine_memory

RAM = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_without_control_groups_it_is_the_ram(tmp_path: Path) -> None:
    assert machine_memory(tmp_path) == RAM


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"memory.max": "max\n"}, RAM),
        ({"memory.max": "1048576\n"}, 2**20),
        ({"a/memory.max": "2097152\n", "memory.max": "max\n"}, 2**21),
        ({"a/b/memory.max": "4194304\n", "a/memory.max": "2097152\n"}, 2**21),
        ({"memory/memory.limit_in_bytes": "2097152\n"}, 2**21),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, RAM),
        ({"memory/x/memory.limit_in_bytes": "1048576\n"}, 2**20),
    ],
)
def test_the_least_limit_counts(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    groups = "9:name=systemd:/\n4:cpu,memory:/x\n1:cpuset:/\n0::/a/b\n"
    write(tmp_path, {"proc/self/cgroup": groups})
    write(tmp_path / "sys/fs/cgroup", files)
    assert machine_memory(tmp_path) == expected


def test_here_there_is_some() -> None:
    assert 0 < machine_memory() <= RAM
