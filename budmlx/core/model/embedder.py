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
    """Gives hidden states, and pools them.

    body: called with tokens [texts, tokens], and `cache` or `mask`. new_cache: makes an empty
    cache for a text that is computed in several passes; None: every text is computed whole, since
    its tokens see those that follow. stateful: the body never goes without a cache.
    """

    body: Callable[..., mx.array]
    new_cache: NewCache | None
    stateful: bool
    pooler: Pooler

    @classmethod
    def of(cls, module: nn.Module, settings: EmbeddingSettings, hidden: int) -> Embedder:
        """The embedder in a model. hidden: the width of its states.

        Raises:
            ModelLoadError: none is found in it, or a layer cannot be read.
        """
        pooler = Pooler(settings)
        if is_encoder(module):
            return cls(module.encode, None, stateful=False, pooler=pooler)

        def new_cache() -> list[Any]:
            caches: list[Any] = make_prompt_cache(module)
            return caches

        found = _find_body(module, hidden, new_cache)
        if found is None:
            raise ModelLoadError("its architecture does not show its hidden states.")
        body, stateful = found
        return cls(body, new_cache, stateful, pooler)

    def states(
        self, tokens: mx.array, lengths: Sequence[int], cache: list[Any] | None = None
    ) -> mx.array:
        """Hidden states [texts, tokens, hidden] of tokens [texts, tokens].

        lengths: tokens of each text; what follows them is padding. cache: of the only text, with
        the tokens in front of these.
        """
        if self.new_cache is None:
            return self.body(tokens, mx.arange(tokens.shape[1]) < mx.array(lengths)[:, None])
        if cache is None and self.stateful:
            cache = self.new_cache()
        return self.body(tokens) if cache is None else self.body(tokens, cache=cache)


def is_encoder(module: nn.Module) -> bool:
    """Whether a model gives hidden states alone, by a method `encode(tokens, mask)`."""
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
