"""Thresholds of the reuse of KV, by which the core acts and the engine explains."""

from __future__ import annotations

LEAST_REUSED = 16
"""Fewest tokens of a stored prefix that is worth a copy, unless it is all that a prompt needs:
every prompt of a chat template begins with the same few."""
LEAST_STRETCH = 64
"""Fewest tokens between two stored states: the forward pass that ends at one has its cost."""
