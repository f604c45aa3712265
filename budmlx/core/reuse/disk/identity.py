"""Identity of KV on disk: the model and the layout of its caches, on which it depends."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from budmlx.core.model.memory import arrays_of
from budmlx.core.model.model import Model
from budmlx.core.reuse.disk.files import ArraySpec, Layout
from budmlx.model_identity import ModelIdentity

# By safetensors' names: types of MLX, and what numpy, which has no bfloat16, takes for them.
NUMBERS: dict[str, tuple[mx.Dtype, Any]] = {
    "F32": (mx.float32, np.float32),
    "F16": (mx.float16, np.float16),
    "BF16": (mx.bfloat16, np.uint16),
    "U32": (mx.uint32, np.uint32),
    "U16": (mx.uint16, np.uint16),
    "U8": (mx.uint8, np.uint8),
}


def name_of(array: mx.array) -> str:
    """Safetensors' name of an array's type; empty if it cannot be stored."""
    return next((name for name, (dtype, _) in NUMBERS.items() if dtype == array.dtype), "")


def layout_of(model: Model) -> Layout | None:
    """The arrays that a model keeps for each token; None if they cannot be stored."""
    cache = model.new_cache()
    # Lazy: gives shapes and dtypes without computing anything.
    model(mx.zeros((1, 1), dtype=mx.int32), cache)
    arrays = [array for entry in cache for array in arrays_of(entry)]
    shapes = [(*array.shape[:2], 1, *array.shape[3:]) for array in arrays]
    names = [name_of(array) for array in arrays]
    return tuple(map(ArraySpec, names, shapes)) if all(names) else None


def model_digest(path: Path) -> str:
    """A digest of the model in `path`, the versions of the libraries, and their device."""
    versions = [mx.__version__, version("mlx-lm"), str(mx.default_device())]
    return ModelIdentity.read(path).sampled(versions)
