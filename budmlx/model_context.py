"""The context of a model, as its config.json says it. Every ring may import it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KEYS = (
    "max_position_embeddings",
    "max_sequence_length",
    "max_seq_len",
    "seq_length",
    "n_positions",
    "n_ctx",
    "model_max_length",
)
UNBOUNDED_CONTEXT = 2**20
"""Tokens of models that name no limit: these are recurrent, so memory does not bound them."""


def context_of(config: Mapping[str, Any]) -> int | None:
    """Most tokens of a sequence; None where the model names no limit. config: of config.json."""
    text = config.get("text_config")
    text = text if text and isinstance(text, Mapping) else config
    values = (text.get(key) for key in KEYS)
    return next((n for n in values if isinstance(n, int) and n is not True and n > 0), None)
