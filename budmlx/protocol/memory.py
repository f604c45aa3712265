"""Memory as the core reports it. Numbers are bytes where nothing else is said."""

from __future__ import annotations

import msgspec


class MemoryBudget(msgspec.Struct, frozen=True, array_like=True):
    """The bounds of a core.

    limit: weights, KV caches and activations together. weights: those of the model.
    prefix_cache: the most for KV of former prompts and replies, of the same limit.
    device: what the device gives by default, to all models together.
    longest_row: tokens, not bytes: the most that a request may have, prompt and reply together.
    """

    limit: int = 0
    weights: int = 0
    prefix_cache: int = 0
    device: int = 0
    longest_row: int = 0


class MemoryUse(msgspec.Struct, frozen=True, array_like=True):
    """Memory of a core. active: in arrays. unused: in freed buffers that MLX keeps for others.

    peak: the most that was active at once, since the core started.
    """

    active: int = 0
    unused: int = 0
    peak: int = 0
