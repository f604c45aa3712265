"""Embedder: the part of a model that gives the hidden states of texts, and their pooling."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import make_prompt_cache

from budmlx.core.model.pooling import Pooler
from budmlx.errors import ModelLoadError
from budmlx.protocol import EmbeddingSettings

BODIES = ("model", "language_model", "transformer", "backbone")
"""Names under which mlx-lm's models keep the part below their head."""
# What a probe of a module may raise that is no body, or takes other arguments.
NO_BODY = (TypeError, ValueError, AttributeError, IndexError, KeyError, RuntimeError)

NewCache = Callable[[], list[Any]]


@dataclass(frozen=True, slots=True)
class Embedder:
    """Gives hidden states, and makes vectors of them.

    body: called with tokens [texts, tokens], and perhaps a cache. new_cache: makes an empty cache
    for a text that is computed in several passes; None: every text is computed whole, since
    its tokens see those that follow. stateful: the body never goes without a cache.
    scores: the body gives the vectors themselves.
    """

    body: Callable[..., mx.array]
    new_cache: NewCache | None
    stateful: bool
    pooler: Pooler
    scores: bool = False

    @classmethod
    def of(cls, module: nn.Module, settings: EmbeddingSettings, hidden: int) -> Embedder:
        """The embedder in a model. hidden: the width of its states.

        Raises:
            ModelLoadError: none is found in it, or a layer cannot be read.
        """
        pooler = Pooler(settings)
        if is_encoder(module):
            body = module.classify if settings.scores else module.encode
            return cls(body, None, stateful=False, pooler=pooler, scores=settings.scores)
        if settings.scores:
            raise ModelLoadError("its classifier is not known here.")

        def new_cache() -> list[Any]:
            caches: list[Any] = make_prompt_cache(module)
            return caches

        found = _find_body(module, hidden, new_cache)
        if found is None:
            raise ModelLoadError("its architecture does not show its hidden states.")
        body, stateful = found
        return cls(body, new_cache, stateful, pooler)

    def part(self, tokens: mx.array, cache: list[Any]) -> mx.array:
        """Hidden states [1, tokens, hidden] of further tokens [1, tokens] of one text."""
        return self.body(tokens, cache=cache)

    def vectors(
        self, tokens: mx.array, lengths: Sequence[int], skip: mx.array, seconds: Sequence[int]
    ) -> mx.array:
        """Vectors [texts, dimensions] of whole texts, by their tokens [texts, tokens].

        lengths: tokens of each text; what follows them is padding. skip: see `Pooler.add`.
        seconds: where the second text of each pair begins; empty for texts that are no pairs.
        """
        if self.new_cache is not None:
            more = {"cache": self.new_cache()} if self.stateful else {}
            states = self.body(tokens, **more)
        else:
            places = mx.arange(tokens.shape[1])[None, :]
            second = places >= mx.array(seconds)[:, None] if seconds else None
            states = self.body(tokens, places < mx.array(lengths)[:, None], second)
        if self.scores:
            return states.astype(mx.float32)
        return self.pooler.finish(self.pooler.add(None, states, lengths, 0, skip), skip)


def is_encoder(module: nn.Module) -> bool:
    """Whether a model gives hidden states alone, by a method `encode(tokens, mask, second)`."""
    return callable(getattr(module, "encode", None))


def bidirectional(config: Mapping[str, Any]) -> str:
    """The setting by which tokens see those that follow them, in words; empty if there is none."""
    for part in (config, config.get("text_config") or {}):
        if part.get("use_bidirectional_attention") in (True, "all"):
            return "use_bidirectional_attention"
        if part.get("is_causal") is False:
            return "is_causal: false"
    return ""


def _find_body(
    module: nn.Module, hidden: int, new_cache: NewCache
) -> tuple[Callable[..., mx.array], bool] | None:
    """The body, and whether it needs a cache; nothing is computed.

    It is called lazily and known by the shape of what it gives.
    """
    for name in BODIES:
        inner = getattr(module, name, None)
        if not isinstance(inner, nn.Module):
            continue
        for stateful in (False, True):
            more = {"cache": new_cache()} if stateful else {}
            try:
                out = inner(mx.zeros((1, 2), dtype=mx.int32), **more)
            except NO_BODY:
                continue
            if getattr(out, "shape", None) == (1, 2, hidden):
                return inner, stateful
        if (deeper := _find_body(inner, hidden, new_cache)) is not None:
            return deeper
    return None
