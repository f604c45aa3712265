"""Memory as the core reports it. All numbers are bytes."""

from __future__ import annotations

import msgspec


class MemoryBudget(msgspec.Struct, frozen=True, array_like=True):
    """The bounds that a core set itself when it loaded its model.

    limit: weights, KV caches and activations together. weights: those of the model.
    prefix_cache: the most for KV of former prompts and replies, of the same limit.
    """

    limit: int = 0
    weights: int = 0
    prefix_cache: int = 0


class MemoryUse(msgspec.Struct, frozen=True, array_like=True):
    """Memory of a core. active: in arrays. unused: in freed buffers that MLX keeps for others.

    peak: the most that was active at once, since the core started.
    """

    active: int = 0
    unused: int = 0
    peak: int = 0
