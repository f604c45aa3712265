"""Thresholds of the reuse of KV: the core acts on them, the engine explains what it did."""

from __future__ import annotations

LEAST_REUSED = 16
"""A stored beginning of fewer tokens is not worth a copy, unless it is all that a prompt needs:
every prompt of a chat template begins with the same few."""
LEAST_STRETCH = 64
"""A state is not kept after fewer tokens than this: the pass that ends there has its cost."""
