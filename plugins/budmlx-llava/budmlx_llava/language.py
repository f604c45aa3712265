"""The language model of LLaVA models: mlx-lm's own, without the weights of the vision side.

Only the core imports this.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from huggingface_hub.errors import StrictDataclassError
from mlx_lm.models.base import BaseModelArgs
from mlx_lm.utils import MODEL_REMAPPING
from transformers import CONFIG_MAPPING

_PREFIX = "language_model."
_VISION = ("vision_tower.", "multi_modal_projector.", "image_newline")


def classes(config: dict[str, Any]) -> tuple[type[Model], type[ModelArgs]]:
    """The classes for `mlx_lm.utils.load_model`.

    config: config.json. Its `text_config`, where checkpoints leave out what is usual, is
    completed in place, for whoever reads the sizes of the language model from it.

    Raises:
        ValueError: mlx-lm has no such language model, or it takes no embeddings.
    """
    config["text_config"] = text = complete(config)
    _module(text)
    return Model, ModelArgs


@dataclass
class ModelArgs(BaseModelArgs):
    """What mlx-lm reads of config.json."""

    model_type: str
    text_config: dict[str, Any]


class Model(nn.Module):
    """The language model, under the names that checkpoints give its weights."""

    def __init__(self, args: ModelArgs):
        super().__init__()
        self.args = args
        self.model_type = args.model_type
        module = _module(args.text_config)
        self.language_model = module.Model(module.ModelArgs.from_dict(args.text_config))
        if hasattr(self.language_model, "make_cache"):
            self.make_cache = self.language_model.make_cache

    def __call__(
        self, inputs: mx.array, cache: Any = None, input_embeddings: mx.array | None = None
    ) -> mx.array:
        """Logits [rows, tokens, vocab] of ids [rows, tokens], or of the embeddings
        [rows, tokens, hidden] that stand for them."""
        logits: mx.array = self.language_model(
            inputs, cache=cache, input_embeddings=input_embeddings
        )
        return logits

    def embed_tokens(self, ids: mx.array) -> mx.array:
        """Embeddings [rows, tokens, hidden] of ids [rows, tokens]."""
        embeddings: mx.array = self.language_model.model.embed_tokens(ids)
        return embeddings

    @property
    def layers(self) -> Any:
        """The language model's layers."""
        return self.language_model.layers

    def sanitize(self, weights: Mapping[str, mx.array]) -> dict[str, mx.array]:
        """The language model's weights, by the names that they have here."""
        own = {_own_name(name): array for name, array in weights.items() if not _is_vision(name)}
        if hasattr(self.language_model, "sanitize"):
            own = self.language_model.sanitize(own)
        return {_PREFIX + name: array for name, array in own.items()}


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """`text_config` with what is left out because it is the default of its family.

    Raises:
        ValueError: transformers does not know the family, or refuses a value.
    """
    text = dict(config.get("text_config") or {})
    family = text.setdefault("model_type", "qwen2" if _is_onevision(config) else "llama")
    if family not in CONFIG_MAPPING:
        raise ValueError(f"the language model is of an unknown type, {family!r}")
    try:
        defaults = CONFIG_MAPPING[family](**text).to_dict()
    except (StrictDataclassError, TypeError) as error:
        raise ValueError(f"text_config in config.json is not usable: {error}") from error
    rope = text.get("rope_parameters") or {}
    if "rope_theta" in rope:
        text.setdefault("rope_theta", rope["rope_theta"])
    if rope.get("rope_type", "default") != "default":
        text.setdefault("rope_scaling", rope)
    for name, value in defaults.items():
        if value is not None and not name.startswith("rope"):
            text.setdefault(name, value)
    # transformers writes it in one of the two places.
    tied = text.get("tie_word_embeddings") or config.get("tie_word_embeddings")
    text["tie_word_embeddings"] = bool(tied)
    return text


def _module(text: Mapping[str, Any]) -> Any:
    """The module of mlx-lm for a language model. Raises ValueError if none fits."""
    family = str(text["model_type"])
    try:
        module = importlib.import_module(f"mlx_lm.models.{MODEL_REMAPPING.get(family, family)}")
    except ImportError as error:
        raise ValueError(f"mlx-lm has no language model of the type {family!r}") from error
    if "input_embeddings" not in inspect.signature(module.Model.__call__).parameters:
        raise ValueError(
            f"the language model {family!r} of mlx-lm takes no embeddings, so it cannot be "
            "shown pictures"
        )
    return module


def _is_onevision(config: Mapping[str, Any]) -> bool:
    return config.get("model_type") == "llava_onevision"


def _is_vision(name: str) -> bool:
    return name.removeprefix("model.").startswith(_VISION)


def _own_name(name: str) -> str:
    """The name that mlx-lm's module has for a weight. transformers wrote
    `language_model.model.` before version 4.52, and `model.language_model.` since."""
    if name.startswith("model.language_model."):
        return "model." + name.removeprefix("model.language_model.")
    return name.removeprefix(_PREFIX)
