"""The weights of tower and projector, from checkpoints in the layouts of transformers, old and
new, and of the conversions for MLX.
"""

from __future__ import annotations

import re
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.utils import infer_quant_config

from budmlx.plugins.vision import ModelFiles
from budmlx_llava.settings import Settings, TowerShape
from budmlx_llava.tower import Projector, Tower

_OWN = ("vision_tower.", "multi_modal_projector.", "image_newline")
_PATCHES = "vision_tower.embeddings.patch_embedding.weight"
_OUTPUT = "multi_modal_projector.linear_2.weight"
_UNUSED = re.compile(r"vision_tower\.(post_layernorm|head)\..*|.*\.position_ids")
_LAYER = re.compile(r"vision_tower\.encoder\.layers\.(\d+)\..*")


class Vision(nn.Module):
    """What a LLaVA model has besides its language model."""

    def __init__(self, settings: Settings, hidden: int):
        super().__init__()
        self.vision_tower = Tower(settings.tower, settings.states)
        self.multi_modal_projector = Projector(settings, hidden)
        if settings.pinpoints:
            self.image_newline = mx.zeros(hidden)

    @property
    def dtype(self) -> mx.Dtype:
        """What the tower computes in; the weights of the patches are never quantized."""
        return self.vision_tower.embeddings.patch_embedding.weight.dtype


def load_vision(files: ModelFiles, settings: Settings) -> tuple[Vision, mx.Dtype]:
    """The module with the weights of a directory, still unread, and the language model's dtype.

    Raises:
        ValueError: weights are missing, or have other shapes than the configuration says.
    """
    weights: dict[str, mx.array] = {}
    dtype = mx.float32
    for file in sorted(Path(files.path).glob("model*.safetensors")):
        for name, array in mx.load(str(file)).items():
            own = _own_name(name)
            if own.startswith(_OWN):
                weights[own] = array
            elif own.endswith(".norm.weight"):
                # Unlike the matrices, it is not quantized.
                dtype = array.dtype
    weights = {name: weights[name] for name in weights if _is_used(name, settings)}
    if missing := {_PATCHES, _OUTPUT} - weights.keys():
        raise ValueError(f"the model's files lack {', '.join(sorted(missing))}")
    weights[_PATCHES] = _channels_last(weights[_PATCHES], settings.tower)
    vision = Vision(settings, hidden=weights[_OUTPUT].shape[0])

    def quantization(path: str, module: nn.Module) -> bool | dict[str, object]:
        if f"{path}.scales" not in weights:
            return False
        return infer_quant_config(path, module, weights)  # type: ignore[no-any-return]

    nn.quantize(vision, class_predicate=quantization)
    vision.load_weights(list(weights.items()))
    return vision, dtype


def _own_name(name: str) -> str:
    """The name of a tensor here: some checkpoints put `model.` before all names, and all but
    the newest have the tower within a `vision_model`."""
    name = name.removeprefix("model.")
    return name.replace("vision_tower.vision_model.", "vision_tower.", 1)


def _is_used(name: str, settings: Settings) -> bool:
    if name == "image_newline":
        return bool(settings.pinpoints)
    layer = _LAYER.fullmatch(name)
    if layer is not None:
        return int(layer[1]) < max(settings.states)
    return not _UNUSED.fullmatch(name)


def _channels_last(patches: mx.array, shape: TowerShape) -> mx.array:
    """The convolution's weights [hidden, height, width, 3], which PyTorch has as
    [hidden, 3, height, width]."""
    if patches.shape[1:] == (3, shape.patch_size, shape.patch_size):
        return patches.transpose(0, 2, 3, 1)
    return patches
