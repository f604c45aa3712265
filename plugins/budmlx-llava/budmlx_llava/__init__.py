"""Pictures for LLaVA models: preprocessor, vision encoder, and loader of the language model.

Nothing here loads MLX; the modules `encoder`, `tower` and `language`, which do, are imported
only by the core.
"""

from __future__ import annotations

from budmlx import hookimpl
from budmlx.plugins.vision import (
    ModelFiles,
    ModelLoaderSpec,
    VisionEncoderSpec,
    VisionPreprocessorSpec,
)
from budmlx_llava.preprocess import Preprocessor
from budmlx_llava.settings import MODEL_TYPES, Settings, is_supported, placeholder

NAME = "llava"


@hookimpl
def provide_vision_preprocessor(name: str, model: ModelFiles) -> VisionPreprocessorSpec | None:
    """The preprocessor of LLaVA models with a CLIP or SigLIP tower."""
    if name not in ("auto", NAME) or not is_supported(model):
        return None
    preprocessor = Preprocessor(Settings.of(model), model)
    return VisionPreprocessorSpec(NAME, preprocessor, placeholder(model))


@hookimpl
def provide_vision_encoder(model: ModelFiles) -> VisionEncoderSpec | None:
    """The tower and the projector of LLaVA models."""
    return VisionEncoderSpec(NAME, "budmlx_llava.encoder:load") if is_supported(model) else None


@hookimpl
def add_model_loaders() -> list[ModelLoaderSpec]:
    """The language model of LLaVA models, as mlx-lm has it."""
    return [ModelLoaderSpec(NAME, MODEL_TYPES, "budmlx_llava.language:classes")]
