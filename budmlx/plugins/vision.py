"""Interfaces of vision: pictures to arrays in the engine, arrays to embeddings in the core,
and loaders of models that mlx-lm alone cannot load. Nothing here loads MLX.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from budmlx.plugins.specs import Array, check_target

Detail = Literal["auto", "low", "high"]
"""The level of detail that the client wants of a picture."""

Pixels = NDArray[np.uint8]
"""A picture as RGB [height, width, 3], upright, without transparency."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model's directory. config: config.json; preprocessor: preprocessor_config.json, or {}."""

    path: str
    config: Mapping[str, Any]
    preprocessor: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a directory. Raises OSError and ValueError."""
        config = json.loads((path / "config.json").read_text("utf-8"))
        file = path / "preprocessor_config.json"
        preprocessor = json.loads(file.read_text("utf-8")) if file.is_file() else {}
        return cls(str(path), config, preprocessor)

    @property
    def model_type(self) -> str:
        """The family that config.json names."""
        return str(self.config.get("model_type"))


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """A picture prepared for a prompt: either text, or arrays that the core encodes.

    text: stands in the prompt in the picture's place, as if the user had written it.
    tokens: how many placeholder tokens stand for the picture; the encoder returns as many
    embeddings. arrays: C-contiguous, what the encoder gets.
    """

    text: str = ""
    tokens: int = 0
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VisionPreprocessorSpec:
    """A preprocessor of the pictures in a model's prompts.

    prepare: called on threads, several at once, for each picture, with 10 s for each;
    `InvalidRequestError` from it refuses the request with 400.
    placeholder: text of the vocabulary's token that stands for a picture in the chat
    template's output; it is repeated `PreparedImage.tokens` times. Empty where pictures
    become text.
    """

    name: str
    prepare: Callable[[Pixels, Detail], PreparedImage]
    placeholder: str = ""


@dataclass(frozen=True, slots=True)
class VisionEncoderSpec:
    """An encoder of arrays into embeddings. core: `package.module:factory` of a `VisionEncoder`,
    called once with the model's `ModelFiles`."""

    name: str
    core: str

    def __post_init__(self) -> None:
        check_target(self.name, self.core)


class VisionEncoder(Protocol):
    """A vision encoder in the core.

    It is called on the core's only thread, once for each picture that is not in the cache.
    """

    @property
    def nbytes(self) -> int:
        """Bytes of the weights, for the memory limit."""

    def encode(self, arrays: Mapping[str, Array]) -> Array:
        """Embeddings [tokens, hidden] of one picture, in the language model's dtype."""


@dataclass(frozen=True, slots=True)
class ModelLoaderSpec:
    """A loader of models whose types mlx-lm does not know, or gets wrong.

    model_types: what config.json names. core: `package.module:classes`, called with
    config.json as a dict; it returns the pair (Model, ModelArgs) that
    `mlx_lm.utils.load_model(get_model_classes=...)` takes. A model that takes pictures has
    `embed_tokens(ids [rows, tokens])`, and its `__call__` takes `input_embeddings`. One whose
    tokens see each other in both directions has no `__call__`, but `encode(tokens, mask, second)`,
    all [texts, tokens], which returns states [texts, tokens, hidden], and, with a classifier,
    `classify` of the same arguments, which returns scores [texts, labels]; mask is False for
    padding on the right, second (or None) True for the second text of a pair.
    """

    name: str
    model_types: tuple[str, ...]
    core: str

    def __post_init__(self) -> None:
        check_target(self.name, self.core)
        if not all(re.fullmatch(r"[\w.-]+", kind) for kind in self.model_types):
            raise ValueError(f"the model types of {self.name} are not names")
