"""Device memory: what the device gives to all models, before one is loaded that says it."""

from __future__ import annotations

import logging
import subprocess
import sys

from budmlx.engine.hosts.child import child_environment

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 60.0


def device_memory() -> int | None:
    """Bytes for weights, KV caches and activations; None if the device does not say.

    It blocks while a process asks MLX, which takes about a second.
    """
    command = [sys.executable, "-P", "-m", "budmlx.core.device_memory"]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=PATIENCE_SECONDS,
            env=child_environment(),
        )
        return int(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        log.warning("The device does not say how much memory it has: %s", error)
        return None
