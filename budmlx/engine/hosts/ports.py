"""Ports for ranks: below those that systems give to outgoing connections."""

from __future__ import annotations

import contextlib
import random

from budmlx.protocol.links import listen

PORTS = range(20_000, 32_000)


def free_port(held: contextlib.ExitStack, ip: str) -> int:
    """A port of an address on which nobody listens; `held` holds it.

    Raises:
        OSError: no port is free.
    """
    problem: OSError | None = None
    for port in random.SystemRandom().sample(PORTS, 50):
        try:
            held.enter_context(listen(f"[{ip}]:{port}"))
            return port
        except OSError as error:
            problem = error
    raise OSError(f"no port is free for the ranks: {problem}")
