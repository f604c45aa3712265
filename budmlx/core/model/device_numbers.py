"""Device: the numbers by which scheduling fits the hardware, chosen from what MLX says of it.

Choosing measures nothing, so cores on equal devices choose equal numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import mlx.core as mx

Backend = Literal["cpu", "metal", "cuda"]

# Longer passes may meet the time limit that macOS sets for work on the GPU.
LONGEST_METAL_CHUNK = 4096
# A chunk that memory makes smaller than by default stays at least so long.
SMALLEST_FITTED = 512
# Building and starting a forward pass takes the host about this long while a GPU waits.
HOST_SECONDS = 0.004
OVERHEAD_LIMITS = (256 * 2**20, 2 * 2**30)
# GB/s of Apple's chips; the first word that is in the device's name decides.
BANDWIDTHS = {"Ultra": 800, "Max": 400, "Pro": 200, "": 100}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceNumbers:
    """What prefill and placement cost on a device.

    device: its name. prefill_chunk: most prompt tokens of one forward pass.
    multiple: passes that end within a prompt compute a multiple of so many tokens, the size of
    the kernels' tiles. least_chunk: fewest prompt tokens of a pass beside rows that decode.
    step_overhead: what a forward pass costs beside the bytes that it reads, as bytes that could
    be read meanwhile. copy_steps: what a copy of all rows of a batch costs, in steps.
    """

    backend: Backend
    device: str
    prefill_chunk: int
    multiple: int
    least_chunk: int
    step_overhead: int
    copy_steps: float

    @property
    def shown(self) -> dict[str, str | int | float]:
        """The numbers by name, as they are reported."""
        return {name: getattr(self, name) for name in self.__slots__}

    @property
    def warning(self) -> str:
        """A sentence about a number that is risky on this device, or an empty string."""
        if self.backend != "metal" or self.prefill_chunk <= LONGEST_METAL_CHUNK:
            return ""
        return (
            f"prefill_chunk is {self.prefill_chunk}: on Metal, passes of more than "
            f"{LONGEST_METAL_CHUNK} tokens can meet the GPU's time limit, which ends them."
        )

    def fitted(self, longest_row: Callable[[int], int]) -> DeviceNumbers:
        """The same with a chunk whose activations cost no context.

        longest_row: tokens of the longest row that fits into memory, by the chunk.
        """
        chunk = self.prefill_chunk
        wanted = longest_row(min(chunk, SMALLEST_FITTED))
        while chunk > SMALLEST_FITTED and longest_row(chunk) < wanted:
            chunk //= 2
        return replace(self, prefill_chunk=chunk)


def numbers_of(backend: Backend, info: Mapping[str, Any]) -> DeviceNumbers:
    """The numbers of a device. info: what `mx.device_info` says of it."""
    device = str(info.get("device_name", backend))
    if backend == "cpu":
        return DeviceNumbers(
            backend=backend,
            device=device,
            prefill_chunk=512,
            multiple=1,
            least_chunk=8,
            step_overhead=32 * 2**20,
            copy_steps=2,
        )
    return DeviceNumbers(
        backend=backend,
        device=device,
        prefill_chunk=2048,
        multiple=32,
        least_chunk=32,
        step_overhead=_step_overhead(backend, device),
        copy_steps=1,
    )


def this_device() -> DeviceNumbers:
    """The numbers of MLX's default device."""
    if mx.default_device() != mx.gpu:
        return numbers_of("cpu", mx.device_info(mx.cpu))
    return numbers_of("metal" if mx.metal.is_available() else "cuda", mx.device_info())


def _step_overhead(backend: Backend, device: str) -> int:
    least, most = OVERHEAD_LIMITS
    if backend == "cuda":
        return most
    bandwidth = next(speed for word, speed in BANDWIDTHS.items() if word in device)
    return min(max(least, int(bandwidth * 1e9 * HOST_SECONDS)), most)
