"""A prompt on its way into a cache, for the rows that will continue it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from budmlx.core.model import Model
from budmlx.core.row import Row


@dataclass(eq=False, slots=True)
class Prompt:
    """One prefill.

    rows: the choices that fork from it; all have the same ids.
    cache: one entry per layer, a single row's. computed: how many ids it holds.
    """

    rows: list[Row]
    cache: list[Any]
    computed: int = 0

    @property
    def ids(self) -> list[int]:
        """Token ids of the prompt, and of what was generated before a fault."""
        return self.rows[0].ids

    @property
    def remaining(self) -> int:
        """Tokens to prefill. The last id is left to the first decode step."""
        return len(self.ids) - 1 - self.computed

    def compute(self, model: Model, count: int) -> None:
        """Prefill `count` more tokens and wait for them.

        Prompts are not padded into one batch: recurrent caches would take padding for tokens.
        """
        chunk = mx.array([self.ids[self.computed : self.computed + count]])
        model(chunk, self.cache)
        # Only the caches are evaluated: the logits of a prompt are never computed.
        mx.eval([entry.state for entry in self.cache])
        self.computed += count
