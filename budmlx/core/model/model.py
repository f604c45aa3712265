"""A loaded model: mlx-lm's module, its caches and the memory that it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from budmlx.core.adapters.loaded import Adapters
from budmlx.core.model.device_numbers import DeviceNumbers
from budmlx.core.model.draft_model import DraftModel
from budmlx.core.model.embedder import Embedder
from budmlx.core.model.memory import MemoryModel
from budmlx.core.model.memory_policy import MemoryPolicy
from budmlx.core.model.ranks import Ranks
from budmlx.core.model.vision import Vision
from budmlx.types import ModelInfo


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded model. memory: what it takes. policy: what it may take.

    new_cache: makes an empty cache for one row, a list with one entry per layer.
    paddable: prompts of different length can be prefilled in one batch. Recurrent caches
    would treat the padding as tokens. numbers: those of the device. adapters: what rows may choose.
    vision: the image encoder, if the model has one. embedder: what makes vectors of texts, if it
    is to. ranks: the processes that each have a part of it; None where this one has all.
    drafter: what drafts for it, if anything does.
    """

    module: nn.Module
    info: ModelInfo
    memory: MemoryModel
    policy: MemoryPolicy
    new_cache: Callable[[], list[Any]]
    paddable: bool
    numbers: DeviceNumbers
    adapters: Adapters
    vision: Vision | None = None
    embedder: Embedder | None = None
    ranks: Ranks | None = None
    drafter: DraftModel | None = None

    @property
    def memory_now(self) -> MemoryModel:
        """`memory` with the adapters among the weights, and with what they take for rows."""
        adapters = self.adapters
        if not adapters.nbytes:
            return self.memory
        weights = self.memory.weights + adapters.nbytes
        return replace(self.memory, weights=weights, copied=adapters.copied)

    def limited(self, limit: int) -> Model:
        """The model with another limit of memory, in bytes; see `MemoryPolicy.moved`."""
        memory = replace(self.memory, limit=limit)
        return replace(self, policy=self.policy.moved(limit), memory=memory)

    def __call__(
        self,
        tokens: mx.array,
        cache: list[Any],
        embeddings: mx.array | None = None,
        adapters: Sequence[str] = (),
    ) -> mx.array:
        """Logits [rows, tokens, vocab] for token ids [rows, tokens]; updates `cache`.

        embeddings: [rows, tokens, hidden], used instead of those of the tokens.
        adapters: the digest of each row's, empty for none; nothing where no row has one.
        """
        extra = {} if embeddings is None else {"input_embeddings": embeddings}
        if adapters:
            with self.adapters.chosen(adapters):
                return self.module(tokens, cache=cache, **extra)
        return self.module(tokens, cache=cache, **extra)
