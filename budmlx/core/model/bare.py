"""Bare bodies: checkpoints of embedders that were saved without the part that makes tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.utils import _get_classes

Classes = Callable[[dict[str, Any]], tuple[type[nn.Module], type]]


def bare_classes(config: dict[str, Any], classes: Classes = _get_classes) -> tuple[type, type]:
    """The classes for `mlx_lm.utils.load_model` of a checkpoint of the body alone.

    The names of its weights begin where those of a whole model go on after `model.`. The head,
    which is not there, is that of tied embeddings, and nobody uses it.
    """
    model_class, args_class = classes(config)

    class Arguments:
        """The model's arguments."""

        @staticmethod
        def from_dict(params: Mapping[str, Any]) -> Any:
            """As the model's own, with tied embeddings."""
            return args_class.from_dict({**params, "tie_word_embeddings": True})  # type: ignore[attr-defined]

    class Body(model_class):  # type: ignore[misc, valid-type]
        """The model, for weights without prefix."""

        def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
            """The weights as the whole model has them."""
            whole = {f"model.{name}": weight for name, weight in weights.items()}
            own = getattr(super(), "sanitize", None)
            return own(whole) if own is not None else whole

    return Body, Arguments
