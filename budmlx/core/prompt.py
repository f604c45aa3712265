"""Prompts on their way into caches, for the rows that will continue them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from budmlx.core.model import Model
from budmlx.core.row import Row

# Prompts that differ by so few tokens are alike even if one is many times longer.
SLACK = 16


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
        """Prefill `count` more tokens and wait for them."""
        chunk = mx.array([self.ids[self.computed : self.computed + count]])
        model(chunk, self.cache)
        # Only the caches are evaluated: the logits of a prompt are never computed.
        mx.eval([entry.state for entry in self.cache])
        self.computed += count


def compute_together(model: Model, prompts: Sequence[Prompt]) -> list[Any]:
    """Prefill whole prompts in one forward pass, padded on the right, and wait for it.

    Returns batch caches, one entry per layer, with a row for each prompt. Only caches that
    know padding can do this, see `Model.paddable`.
    """
    counts = [prompt.remaining for prompt in prompts]
    longest = max(counts)
    tokens = np.zeros((len(prompts), longest), dtype=np.int32)
    for row, prompt, count in zip(tokens, prompts, counts, strict=True):
        row[:count] = prompt.ids[:count]
    caches = zip(*(prompt.cache for prompt in prompts), strict=True)
    merged = [entries[0].merge(list(entries)) for entries in caches]
    for entry in merged:
        entry.prepare(lengths=counts, right_padding=[longest - count for count in counts])
    model(mx.array(tokens), merged)
    for entry in merged:
        entry.finalize()
    mx.eval([entry.state for entry in merged])
    return merged


def next_batch(
    prompts: Sequence[Prompt], budget: int, *, oldest: bool, paddable: bool
) -> list[Prompt]:
    """The prompts to compute next: several short ones together, or one of any length.

    budget: tokens, padding included, of the forward pass. oldest: the first prompt goes now,
    else the one with the least to do.
    """
    first = prompts[0] if oldest else min(prompts, key=lambda prompt: prompt.remaining)
    batch = [first]
    if not (paddable and _is_whole(first) and first.remaining <= budget):
        return batch
    others = (prompt for prompt in prompts if prompt is not first and _is_whole(prompt))
    longest = first.remaining
    for prompt in sorted(others, key=lambda prompt: prompt.remaining):
        longest = max(longest, prompt.remaining)
        # Padding is computed like tokens, so prompts of one pass must be alike.
        alike = longest <= 2 * min(first.remaining, prompt.remaining) + SLACK
        if not alike or longest * (len(batch) + 1) > budget:
            break
        batch.append(prompt)
    return batch


def _is_whole(prompt: Prompt) -> bool:
    """Whether a prompt may share its only forward pass. One token cannot be padded."""
    alone = len(prompt.rows) == 1 and not prompt.rows[0].solo
    return alone and prompt.computed == 0 and prompt.remaining > 1
