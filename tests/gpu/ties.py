"""Models of ours and of mlx-lm with the same weights, and ties between their tokens."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model as load_with_mlx_lm

from budmlx.core.model.model import Model
from tests.core.architectures import ARCHITECTURES, SCALES
from tests.core.driver import load
from tests.gpu.device import GPU
from tests.models import tiny_model_dir

# Of the standard deviation of the logits. A GPU multiplies float32 in TensorFloat-32.
TIES = {mx.float32: 0.05 if GPU else 0.001, mx.bfloat16: 0.15}
# The heads and the grouping of real models, for which a GPU has kernels of their own.
REAL = {
    **ARCHITECTURES["qwen3"],
    "hidden_size": 256,
    "intermediate_size": 512,
    "head_dim": 128,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
}


@cache
def directory(name: str, bits: int | None) -> Path:
    config = REAL if name == "real" else ARCHITECTURES[name]
    return tiny_model_dir(config, bits=bits, scale=SCALES.get(name, 3.0), seed=7)


def loaded(name: str, bits: int | None, dtype: mx.Dtype) -> tuple[Model, nn.Module]:
    """Our model, and mlx-lm's with the same weights."""
    ours = load(directory(name, bits))
    theirs, _ = load_with_mlx_lm(directory(name, bits))
    ours.module.set_dtype(dtype)
    theirs.set_dtype(dtype)
    return ours, theirs


def gaps(theirs: nn.Module, prompt: list[int], tokens: list[int]) -> np.ndarray:
    """How far each token is from mlx-lm's first choice, in standard deviations of the logits."""
    ids = mx.array([[*prompt, *tokens[:-1]]])
    logits = theirs(ids, cache=make_prompt_cache(theirs))[0, len(prompt) - 1 :]
    rows = np.array(logits.astype(mx.float32))
    chosen = rows[np.arange(len(tokens)), tokens]
    distance: np.ndarray = (rows.max(axis=-1) - chosen) / rows.std(axis=-1)
    return distance
