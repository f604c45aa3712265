"""Encoders for embeddings and ranking: models whose tokens see each other in both directions.

Nothing here loads MLX; the other modules, which do, are imported only by the core.
"""

from __future__ import annotations

from budmlx import hookimpl
from budmlx.plugins.vision import ModelLoaderSpec

MODEL_TYPES = ("bert", "roberta", "xlm-roberta", "modernbert", "nomic_bert")


@hookimpl
def add_model_loaders() -> list[ModelLoaderSpec]:
    """The classes of all families."""
    return [ModelLoaderSpec("encoders", MODEL_TYPES, "budmlx_encoders.families:classes")]
