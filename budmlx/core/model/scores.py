"""Attention scores: in which passes a device stores them, so that they take memory.

The rules are those of `use_fallback` in MLX 0.32.4, one for each of its back ends.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.nn as nn
from mlx_lm.models.cache import ArraysCache, CacheList

from budmlx.core.model.memory_policy import DeviceMemory
from budmlx.core.model.shape import Shape

# Widths of heads for which Metal has a fused kernel and takes it: of 192 and 256 the unfused
# path is the faster one when there are many queries.
METAL_PREFILL = frozenset({64, 72, 80, 96, 128})
METAL_DECODE = frozenset({64, 96, 128, 256})
# Heads that share keys and values, for Metal's kernel of single queries.
METAL_SHARING = 32
# cuDNN's kernel: the first capability that has it, and the widest head.
CUDNN_CAPABILITY = 8
CUDNN_WIDEST = 128


@dataclass(frozen=True, slots=True)
class AttentionHeads:
    """The heads of a layer. keys, values: numbers of one token. count: heads of the cache."""

    keys: int
    values: int
    count: int


@dataclass(frozen=True, slots=True)
class StoredScores:
    """Whether attention stores its scores in prefill, and in decode, with one token a row."""

    prefill: bool
    decode: bool

    @classmethod
    def on(
        cls, device: DeviceMemory, heads: Collection[AttentionHeads], queries: int, *, half: bool
    ) -> StoredScores:
        """What a device stores, if the model leaves attention to MLX.

        heads: of all layers that attend. queries: heads of queries. half: numbers of 16 bits.
        """
        if not heads:
            return cls(prefill=False, decode=False)
        widths = {head.keys for head in heads}
        same = all(head.keys == head.values for head in heads)
        if device.backend == "metal":
            shared = max(queries // head.count for head in heads) <= METAL_SHARING
            return cls(
                prefill=not (same and widths <= METAL_PREFILL),
                decode=not (same and shared and widths <= METAL_DECODE),
            )
        if device.backend == "cuda":
            widths |= {head.values for head in heads}
            fits = all(width % 8 == 0 and width <= CUDNN_WIDEST for width in widths)
            fused = half and fits and device.capability >= CUDNN_CAPABILITY
            # Rows that decode together have a mask, with which no kernel of CUDA's is fused.
            return cls(prefill=not fused, decode=True)
        return cls(prefill=True, decode=True)


ALL_SCORES = StoredScores(prefill=True, decode=True)


def stored_scores(
    device: DeviceMemory, module: nn.Module, cache: Sequence[Any], shape: Shape
) -> StoredScores:
    """What a model stores on a device. cache: a single row's after a pass."""
    if caps_scores(module):
        return ALL_SCORES
    return StoredScores.on(device, attention_heads(cache), shape.heads, half=shape.itemsize == 2)


def attention_heads(cache: Iterable[Any]) -> set[AttentionHeads]:
    """The heads of all layers that attend, by a single row's cache after a pass.

    cache: its keys and values are arrays [rows, heads, tokens, width]; attention gets those of
    quantized caches unpacked.
    """
    heads: set[AttentionHeads] = set()
    for entry in cache:
        if isinstance(entry, CacheList):
            heads |= attention_heads(entry.caches)
        elif not isinstance(entry, ArraysCache) and not entry.empty():
            packed = isinstance(entry.keys, tuple)
            keys, values = entry.keys_and_values() if packed else (entry.keys, entry.values)
            width = 0 if values is None else values.shape[-1]
            heads.add(AttentionHeads(keys.shape[-1], width, keys.shape[1]))
    return heads


def caps_scores(module: nn.Module) -> bool:
    """Whether layers bend their scores themselves, as no fused kernel does."""
    return any(getattr(layer, "attn_logit_softcapping", None) for layer in module.modules())
