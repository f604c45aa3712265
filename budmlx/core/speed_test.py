"""What the bare device does, without a model: `python -m budmlx.core.speed_test` prints it as JSON.

It takes about two seconds, and is a program of its own, since a broken back end may end it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import mlx.core as mx

from budmlx.core.device import use_device
from budmlx.core.model.memory_policy import DeviceMemory, MemoryPolicy

SECONDS = 0.8
"""How long each of the two measurements goes on."""
SIDE = 1024
"""Rows and columns of the matrices that are multiplied."""
VECTOR_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class DeviceSpeed:
    """Speed and memory of a device.

    backend: `metal`, `cuda` or `cpu`. name: of the device, as far as MLX tells it.
    size, limit: bytes of its memory, and what a model may take by default.
    flops: floating-point operations a second of matrix products, which bound prefill; in float16
    on a GPU, in float32 on a CPU. bandwidth: bytes a second that are read and written, which
    bounds decode.
    """

    backend: str
    name: str
    size: int
    limit: int
    flops: float
    bandwidth: float


def measure() -> DeviceSpeed:
    """The device that the core would use."""
    use_device()
    device = DeviceMemory.here()
    policy = MemoryPolicy.choose(device)
    info = mx.device_info(mx.default_device())
    dtype = mx.float32 if device.backend == "cpu" else mx.float16
    a, b = (mx.random.normal((SIDE, SIDE)).astype(dtype) for _ in range(2))
    vector = mx.zeros((VECTOR_BYTES // dtype.size,), dtype)
    mx.eval(a, b, vector)
    products = _per_second(lambda: a @ b)
    copies = _per_second(lambda: -vector)
    return DeviceSpeed(
        backend=device.backend,
        name=str(info.get("device_name", "")),
        size=device.size,
        limit=policy.limit,
        flops=products * 2 * SIDE**3,
        bandwidth=copies * 2 * VECTOR_BYTES,
    )


def _per_second(work: Callable[[], mx.array]) -> float:
    mx.eval(work())  # The first one builds its kernel.
    begin, count = time.perf_counter(), 0
    while (taken := time.perf_counter() - begin) < SECONDS:
        mx.eval(work())
        count += 1
    return count / taken


if __name__ == "__main__":
    json.dump(asdict(measure()), sys.stdout)
