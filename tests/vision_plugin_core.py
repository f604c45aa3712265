"""The half of `tests.vision_plugin` that runs in the core."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models import llama

from budmlx.plugins.vision import ModelFiles


class PictureLlama(nn.Module):
    """mlx-lm's llama, which can be asked for embeddings."""

    def __init__(self, args: Any):
        super().__init__()
        self.args = args
        self.inner = llama.Model(args)

    def __call__(self, inputs: Any, cache: Any = None, input_embeddings: Any = None) -> mx.array:
        return self.inner(inputs, cache=cache, input_embeddings=input_embeddings)

    def embed_tokens(self, ids: mx.array) -> mx.array:
        return self.inner.model.embed_tokens(ids)

    def sanitize(self, weights: Mapping[str, Any]) -> dict[str, Any]:
        return {f"inner.{name}": array for name, array in self.inner.sanitize(weights).items()}

    @property
    def layers(self) -> list[Any]:
        return self.inner.layers


def classes(config: Mapping[str, Any]) -> tuple[type[PictureLlama], type[llama.ModelArgs]]:
    return PictureLlama, llama.ModelArgs


class Encoder:
    """Colours times fixed random numbers. It fails on black, blunders on white, hangs on red."""

    nbytes = 3 * 64 * 4

    def __init__(self, hidden: int):
        self.matrix = mx.random.normal((3, hidden), key=mx.random.key(7)) * 4
        self.calls = 0

    def encode(self, arrays: Mapping[str, mx.array]) -> mx.array:
        self.calls += 1
        colours = arrays["colours"]
        if colours.max() == 0:
            raise ValueError("too dark")
        if colours.min() == 1:
            return mx.zeros((1, 1))
        if (colours == mx.array([1.0, 0.0, 0.0])).all():
            time.sleep(3600)
        return colours @ self.matrix


def load(files: ModelFiles) -> Encoder:
    return Encoder(files.config["hidden_size"])
