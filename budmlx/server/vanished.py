"""Clients that vanish without a word: a machine that lost its power or its network.

Its connection would stay open for hours, and what it asked for would be computed to the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket

PROBES = 3
# The name on macOS, which Python knows there.
_IDLE = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))
_UNREAD = getattr(socket, "TCP_USER_TIMEOUT", None)


def hang_up_on_vanished(transport: asyncio.BaseTransport, seconds: float) -> None:
    """Let the system close a connection whose other end answers nothing for so long.

    Clients need not do anything: their systems answer, however busy they are. Where the system
    knows no such options, and for local sockets, nothing is done.
    """
    found = transport.get_extra_info("socket")
    if found is None or found.family not in (socket.AF_INET, socket.AF_INET6):
        return
    half = max(1, round(seconds / 2))
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    if _IDLE is not None:
        options += [
            (socket.IPPROTO_TCP, _IDLE, half),
            (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, half // PROBES)),
            (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES),
        ]
    if _UNREAD is not None:  # What was sent and is not acknowledged counts as well.
        options.append((socket.IPPROTO_TCP, _UNREAD, round(1000 * seconds)))
    for level, option, value in options:
        with contextlib.suppress(OSError):
            found.setsockopt(level, option, value)
