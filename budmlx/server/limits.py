"""The fixed limits of connections and bodies; what users may set is in the configuration."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one server's connections. Times are in seconds.

    first_request_seconds: until a client has sent its first request.
    keepalive_seconds: until an idle connection is closed.
    linger_seconds: in which the rest of a refused body is read.
    body_idle_seconds: between two pieces of a body. body_total_seconds: for all of it.
    stalled_seconds: after which a client that reads nothing is cut off.
    vanished_seconds: after which a client is cut off whose machine answers nothing.
    shutdown_seconds: for handlers to end when the server does.
    """

    first_request_seconds: float = 10.0
    keepalive_seconds: float = 75.0
    linger_seconds: float = 2.0
    body_idle_seconds: float = 15.0
    body_total_seconds: float = 60.0
    stalled_seconds: float = 30.0
    vanished_seconds: float = 60.0
    shutdown_seconds: float = 1.0
    max_connections: int = 1024


DEFAULTS = Limits()
