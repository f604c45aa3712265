"""Memory policy: what a core may use of its device's memory, decided before a model is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import mlx.core as mx

from budmlx.machine_memory import machine_memory

GIB = 2**30
MIB = 2**20

# Of what Metal recommends; the rest is for MLX's own buffers and for the window server.
METAL_SHARE = 0.85
# What a Mac's system, the parent process and other programs keep of the RAM: the larger of both.
METAL_RESERVE = 4 * GIB
METAL_RESERVE_SHARE = 0.12
# The rest of a CUDA device is for the context, loaded kernels and fragments.
CUDA_SHARE = 0.9
# A CPU shares the machine with everything else that runs.
CPU_SHARE = 0.75
# Freed buffers that MLX keeps: enough for the activations of a pass.
UNUSED_SHARE = 0.03
LEAST_UNUSED = 256 * MIB
# Of the device's memory: the most that a prefix cache takes whose size is a share.
PREFIX_CACHE_SHARE = 0.25

Backend = Literal["metal", "cuda", "cpu"]
Wired = Literal["weights", "all", "none"]


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """What a device says of itself, as far as memory depends on it.

    size: bytes of its memory, which is the machine's RAM except on CUDA. recommended: bytes that
    Metal recommends to stay within; None elsewhere. buffers: most of them at once. capability:
    CUDA's major compute capability, 0 elsewhere.
    """

    backend: Backend
    size: int
    recommended: int | None = None
    buffers: float = math.inf
    capability: int = 0

    @classmethod
    def of(cls, info: Mapping[str, str | int], ram: int) -> DeviceMemory:
        """The device that `mx.device_info()` describes. ram: bytes of memory that we may use."""
        if (recommended := info.get("max_recommended_working_set_size")) is not None:
            size = int(info.get("memory_size", ram))
            buffers = float(info.get("resource_limit", math.inf))
            return cls("metal", size, int(recommended), buffers)
        if (capability := info.get("compute_capability_major")) is not None:
            return cls("cuda", int(info["total_memory"]), capability=int(capability))
        return cls("cpu", ram)

    @classmethod
    def here(cls) -> DeviceMemory:
        """MLX's default device."""
        return cls.of(mx.device_info(mx.default_device()), machine_memory())

    def shared(self, processes: int) -> DeviceMemory:
        """An equal part of it, for one of several processes."""
        recommended = self.recommended and self.recommended // processes
        buffers = self.buffers / processes
        return replace(self, size=self.size // processes, recommended=recommended, buffers=buffers)

    @property
    def limit(self) -> int:
        """Bytes that weights, KV caches and activations may take by default."""
        if self.recommended is not None:
            reserve = max(METAL_RESERVE, int(METAL_RESERVE_SHARE * self.size))
            return min(int(METAL_SHARE * self.recommended), self.size - reserve)
        return int((CUDA_SHARE if self.backend == "cuda" else CPU_SHARE) * self.size)


@dataclass(frozen=True, slots=True)
class MemoryPolicy:
    """The bounds of a core's memory, in bytes where nothing else is said.

    limit: weights, KV caches and activations together. device: the limit by default. unused:
    freed buffers that MLX keeps for later arrays; None leaves that to MLX. largest_share: most
    that a prefix cache takes whose size is a share. stored_arrays: most arrays that it consists
    of. wired: what is kept resident, of `wirable` bytes at most, which are 0 where the device
    cannot.
    """

    limit: int
    device: int
    unused: int | None
    largest_share: int
    stored_arrays: float
    wired: Wired
    wirable: int

    @classmethod
    def choose(
        cls, device: DeviceMemory, limit: int | None = None, wired: Wired = "weights"
    ) -> MemoryPolicy:
        """The policy for a device. limit: None for the device's."""
        limit = limit or device.limit
        return cls(
            limit=limit,
            device=device.limit,
            # On a CPU, MLX itself keeps only 32 MiB, and the C library has its own pool.
            unused=None if device.backend == "cpu" else _unused(limit),
            largest_share=int(PREFIX_CACHE_SHARE * device.size),
            # The other half is for weights, rows and what is computed.
            stored_arrays=device.buffers / 2,
            wired=wired,
            wirable=device.recommended or 0,
        )

    def prefix_cache(self, size: float, weights: int) -> int:
        """Bytes of a prefix cache beside `weights`.

        size: bytes, or, up to 1, a share of what the weights leave; the share is bounded.
        """
        if size > 1:
            return int(size)
        return min(int(size * max(self.limit - weights, 0)), self.largest_share)

    def wired_bytes(self, loaded: int) -> int:
        """Bytes to keep resident. loaded: those in use after the weights were read."""
        wanted = {"weights": loaded, "all": self.wirable, "none": 0}[self.wired]
        return min(wanted, self.wirable)

    def set_limits(self) -> None:
        """Make MLX keep within the policy; call it before a model's weights are read."""
        # What is in use already belongs to other models of this process.
        mx.set_memory_limit(mx.get_active_memory() + self.limit)
        if self.unused is not None:
            mx.set_cache_limit(self.unused)

    def moved(self, limit: int) -> MemoryPolicy:
        """The policy with another limit, which MLX is told at once."""
        unused = None if self.unused is None else _unused(limit)
        policy = replace(self, limit=limit, unused=unused)
        # MLX's limit is that of all models of this process, and only setting it tells it.
        total = mx.set_memory_limit(limit)
        mx.set_memory_limit(max(total + limit - self.limit, limit))
        if unused is not None:
            mx.set_cache_limit(unused)
        mx.clear_cache()
        return policy

    def wire(self) -> None:
        """Wire what is to stay resident; call it when the weights have been read."""
        # Unused buffers would be wired like those of weights, and take their place.
        mx.clear_cache()
        if wired := self.wired_bytes(mx.get_active_memory()):
            mx.set_wired_limit(wired)


def _unused(limit: int) -> int:
    return max(LEAST_UNUSED, int(UNUSED_SHARE * limit))
