"""Ranks: how this process comes together with others."""

from __future__ import annotations

import subprocess
import sys

ALONE = """
import contextlib
from budmlx.core.model import ranks
from budmlx.protocol import Place
from budmlx.engine.hosts.ports import free_port

ranks.CONNECT_SECONDS = 0.5
with contextlib.ExitStack() as held:
    addresses = [f"127.0.0.1:{free_port(held, '127.0.0.1')}" for _ in range(2)]
ranks.Ranks.connect(Place(rank=0, ring=addresses, control="", secret=""))
"""


def test_a_rank_whom_nobody_joins_ends_by_itself() -> None:
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "Timeout" in done.stderr and "in connect" in done.stderr
