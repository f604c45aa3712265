"""Draft model: a small model with the same tokenizer, which says what a large one may say next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from budmlx.core.model.memory import MemoryModel

MOST_TAKEN_IN = 512
"""Tokens of rows that are behind which are taken in beside a step at most."""


@dataclass(frozen=True, slots=True)
class DraftModel:
    """A draft model that is loaded.

    new_cache: makes an empty cache for one row, a list with one entry per layer, of which all can
    be cut. together: rows can share a batch. memory: what it takes beside the model. vocab: logits
    of a place; ids from there on are unknown to it. target_vocab: those of the model.
    context: most tokens of a row. chunk: most tokens of rows that are behind that are taken in at
    once.
    """

    module: nn.Module
    new_cache: Callable[[], list[Any]]
    together: bool
    memory: MemoryModel
    vocab: int
    target_vocab: int
    context: int
    chunk: int

    def __call__(self, tokens: mx.array, cache: list[Any]) -> mx.array:
        """Float32 logits [rows, tokens, target_vocab] for token ids [rows, tokens].

        Updates `cache`.
        """
        known = mx.where(tokens < self.vocab, tokens, 0)
        logits = self.module(known, cache=cache)[..., : self.target_vocab].astype(mx.float32)
        missing = self.target_vocab - logits.shape[-1]
        if not missing:
            return logits
        return mx.pad(logits, [(0, 0), (0, 0), (0, missing)], constant_values=-mx.inf)
