"""The memory that this process may use of its machine: the RAM, or less in a container.

Standard library only; every ring may import it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def machine_memory(root: Path = Path("/")) -> int:
    """Bytes of RAM, or the least limit of a control group that this process is in.

    root: where `proc` and `sys` are found.
    """
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([ram, *_limits(root)])


def _limits(root: Path) -> Iterator[int]:
    for file in _limit_files(root):
        with suppress(OSError, ValueError):  # Not there, or "max".
            yield int(file.read_text("ascii"))


def _limit_files(root: Path) -> Iterator[Path]:
    """The files of both versions of Linux's control groups, which need not exist."""
    try:
        groups = (root / "proc/self/cgroup").read_text("utf-8").splitlines()
    except OSError:
        return
    for group in groups:
        number, controllers, path = group.split(":", 2)
        if number == "0":
            mount, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            mount, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        # A group has no more than the groups around it; where only the container's own is
        # mounted, it is the mount itself.
        inner = mount / path.lstrip("/")
        for directory in (inner, *inner.parents):
            if directory.is_relative_to(mount):
                yield directory / name
