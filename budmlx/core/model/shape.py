"""Shape: the sizes of a model on which the memory of a forward pass depends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes that activations depend on. heads: those of queries. itemsize: of an activation."""

    hidden: int
    intermediate: int
    heads: int
    vocab: int
    itemsize: int

    @classmethod
    def of(cls, config: Mapping[str, Any], *, vocab: int, itemsize: int) -> Shape:
        """The shape of the text model that `config.json` describes."""
        names = ("hidden_size", "n_embd", "d_model")
        hidden = int(next((config[name] for name in names if config.get(name)), 4096))
        return cls(
            hidden=hidden,
            intermediate=int(config.get("intermediate_size") or 4 * hidden),
            heads=int(config.get("num_attention_heads") or config.get("n_head") or 1),
            vocab=vocab,
            itemsize=itemsize,
        )
