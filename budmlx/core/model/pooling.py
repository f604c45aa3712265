"""Pooling: the hidden states of a text become its vector."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from budmlx.errors import ModelLoadError
from budmlx.protocol import EmbeddingSettings, PoolingMode

LEAST_NORM = 1e-12
ACTIVATIONS: Mapping[str, Callable[[mx.array], mx.array]] = {
    "Identity": lambda x: x,
    "Tanh": mx.tanh,
    "ReLU": nn.relu,
    "GELU": nn.gelu,
    "SiLU": nn.silu,
    "Sigmoid": mx.sigmoid,
}
"""Activations of dense layers, by the last word of their class of PyTorch's."""


@dataclass(slots=True)
class Pooled:
    """What is known of the vectors of some texts, as more and more of their states come.

    lengths: tokens of each text. parts: one array [texts, hidden] in float32 for each mode.
    """

    lengths: Sequence[int]
    parts: list[mx.array]


@dataclass(frozen=True, slots=True)
class Dense:
    """A layer after pooling, in float32."""

    weight: mx.array
    bias: mx.array | None
    activation: Callable[[mx.array], mx.array]

    @classmethod
    def load(cls, path: Path) -> Dense:
        """Read the directory of a layer. Raises ModelLoadError."""
        try:
            config = json.loads((path / "config.json").read_bytes())
            weights = mx.load(str(path / "model.safetensors"))
            assert isinstance(weights, dict)
            activation = str(config.get("activation_function", "Identity")).rpartition(".")[2]
            bias = weights.get("linear.bias")
            return cls(
                weights["linear.weight"].astype(mx.float32),
                None if bias is None else bias.astype(mx.float32),
                ACTIVATIONS[activation],
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise ModelLoadError(f"The dense layer {path.name} cannot be read: {error}") from error
        except KeyError as error:
            raise ModelLoadError(f"The dense layer {path.name} cannot be used: {error}") from error

    def __call__(self, x: mx.array) -> mx.array:
        """The layer's output [texts, out] for [texts, in]."""
        x = x @ self.weight.T
        return self.activation(x if self.bias is None else x + self.bias)


class Pooler:
    """Makes vectors of hidden states, in float32.

    Of a text that is computed in several passes, each adds its states; padding on the right adds
    nothing.
    """

    def __init__(self, settings: EmbeddingSettings):
        """Read the dense layers. Raises ModelLoadError."""
        self._modes = settings.pooling
        self._dense = [Dense.load(Path(path)) for path in settings.dense]
        self._normalize = settings.normalize

    @property
    def arrays(self) -> list[mx.array]:
        """The weights of its layers."""
        return [x for each in self._dense for x in (each.weight, each.bias) if x is not None]

    def add(
        self,
        before: Pooled | None,
        states: mx.array,
        lengths: Sequence[int],
        begin: int,
        skip: mx.array,
    ) -> Pooled:
        """Add states [texts, tokens, hidden], the first of which are those of token `begin`.

        before: what was pooled of the tokens in front of them. lengths: tokens of each text.
        skip: [texts, 1]: so many tokens at the beginning count for no mean and no maximum.
        """
        states = states.astype(mx.float32)
        count = mx.array(lengths)[:, None]
        places = begin + mx.arange(states.shape[1])[None, :]
        inside = (places < count) & (places >= mx.minimum(skip, count - 1))
        parts = []
        for number, mode in enumerate(self._modes):
            new = _pooled(mode, states, inside, places, count)
            if before is not None:
                old = before.parts[number]
                new = mx.maximum(old, new) if mode == "max" else old + new
            parts.append(new)
        return Pooled(lengths, parts)

    def finish(self, pooled: Pooled, skip: mx.array) -> mx.array:
        """Vectors [texts, dimensions] of texts all of whose states were added."""
        count = mx.array(pooled.lengths, dtype=mx.float32)[:, None]
        skipped = mx.minimum(skip, count - 1)
        pairs = zip(self._modes, pooled.parts, strict=True)
        x = mx.concatenate([_divided(mode, x, count, skipped) for mode, x in pairs], axis=-1)
        for dense in self._dense:
            x = dense(x)
        return normalized(x) if self._normalize else x


def normalized(x: mx.array) -> mx.array:
    """Vectors of length 1."""
    return x / mx.maximum(mx.linalg.norm(x, axis=-1, keepdims=True), LEAST_NORM)


def _pooled(
    mode: PoolingMode, states: mx.array, inside: mx.array, places: mx.array, count: mx.array
) -> mx.array:
    """What these states add to the vector of each text, before any division."""
    if mode == "max":
        return mx.where(inside[..., None], states, -mx.inf).max(axis=1)
    weights: Any = inside
    if mode == "last":
        weights = places == count - 1
    elif mode == "cls":
        weights = mx.broadcast_to(places == 0, inside.shape)
    elif mode == "weighted":
        weights = inside * (places + 1)
    # Not a product: beyond a text a state may be no number.
    return mx.where(weights[..., None] != 0, states * weights[..., None], 0).sum(axis=1)


def _divided(mode: PoolingMode, x: mx.array, count: mx.array, skipped: mx.array) -> mx.array:
    if mode == "mean":
        return x / (count - skipped)
    if mode == "mean_sqrt":
        return x / mx.sqrt(count - skipped)
    if mode == "weighted":
        return x / ((count * (count + 1) - skipped * (skipped + 1)) / 2)
    return x
