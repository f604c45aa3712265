"""Whether rows of a model can share a batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import CacheList

log = logging.getLogger(__name__)


def can_batch(module: nn.Module, new_cache: Callable[[], list[Any]]) -> bool:
    """Whether rows can share a batch: the caches merge, and the model takes their masks.

    The second is tried on rows of different length. Building the graph is enough for a
    model to refuse; nothing is computed. A mask of the wrong rank broadcasts silently when
    there are as many rows as key-value heads, hence two numbers of rows.
    """
    if not can_merge(new_cache()):
        return False
    try:
        for rows in (3, 5):
            caches = [new_cache() for _ in range(rows)]
            for tokens, cache in enumerate(caches, start=1):
                module(mx.zeros((1, tokens), dtype=mx.int32), cache=cache)
            merged = [entries[0].merge(list(entries)) for entries in zip(*caches, strict=True)]
            module(mx.zeros((rows, 1), dtype=mx.int32), cache=merged)
    except (ValueError, RuntimeError, TypeError, IndexError, AttributeError) as error:
        log.warning("this model runs one row at a time, because it cannot batch: %s", error)
        return False
    return True


def can_merge(cache: Sequence[Any]) -> bool:
    """Whether rows with such caches can share a batch."""
    return all(
        can_merge(entry.caches) if isinstance(entry, CacheList) else hasattr(entry, "merge")
        for entry in cache
    )
