"""Device memory: what all models may take of it, without one.

`python -m budmlx.core.device_memory` prints the bytes. It is a program of its own, since only cores
load MLX, and a broken back end may end it.
"""

from __future__ import annotations

from budmlx.core.device import use_device
from budmlx.core.model.memory_policy import DeviceMemory

if __name__ == "__main__":
    use_device()
    print(DeviceMemory.here().limit)
