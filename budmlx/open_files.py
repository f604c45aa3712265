"""Open files: the limit of descriptors of a process, of which every connection takes one."""

from __future__ import annotations

import contextlib
import resource
import sys

MOST = 10240
"""What macOS allows where the hard limit says unlimited."""

SPARE = 64
"""Files that are open beside connections: of the core, models, stores, libraries."""

LEAST_CONNECTIONS = 16


def raise_open_files_limit() -> int:
    """Raise the soft limit of this process to the hard one, or to `MOST`; returns the soft limit.

    macOS starts programs with a soft limit of 256. Child processes inherit the limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(_number(hard), MOST)
    if _number(soft) < wanted:
        # Some systems have a lower limit of their own, whatever the hard limit says.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return _number(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def connections_within(most: int) -> int:
    """So many of `most` connections may be open at once, beside the other files of a server."""
    soft = _number(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    return min(most, max(LEAST_CONNECTIONS, soft - SPARE))


def _number(limit: int) -> int:
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit
