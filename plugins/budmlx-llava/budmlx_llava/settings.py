"""What the files of a LLaVA model say, with the defaults of transformers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from budmlx.plugins.vision import ModelFiles
from budmlx_llava.grid import Layout, Size, layout

MODEL_TYPES = ("llava", "llava_next", "llava_onevision")
CLIP, SIGLIP = "clip_vision_model", "siglip_vision_model"

# Defaults of CLIPVisionConfig and SiglipVisionConfig.
_TOWERS: dict[str, dict[str, Any]] = {
    CLIP: {"patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    SIGLIP: {"patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6},
}
_NEXT_PINPOINTS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
_ONEVISION_EDGES = (384, 768, 1152, 1536, 1920, 2304)


@dataclass(frozen=True, slots=True)
class TowerShape:
    """The shape of a CLIP or SigLIP vision transformer. Pictures are square."""

    kind: str
    image_size: int
    patch_size: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    activation: str
    epsilon: float

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> TowerShape:
        """Read `vision_config`. Raises ValueError for shapes that no LLaVA model has."""
        kind = str(config["model_type"])
        known = {**_TOWERS[kind], **config}
        if known.get("num_channels", 3) != 3:
            raise ValueError("a vision tower that takes other than three channels")
        return cls(
            kind=kind,
            image_size=int(known.get("image_size", 224)),
            patch_size=int(known["patch_size"]),
            hidden=int(known.get("hidden_size", 768)),
            intermediate=int(known.get("intermediate_size", 3072)),
            layers=int(known.get("num_hidden_layers", 12)),
            heads=int(known.get("num_attention_heads", 12)),
            activation=str(known["hidden_act"]),
            epsilon=float(known["layer_norm_eps"]),
        )

    @property
    def side(self) -> int:
        """Patches along an edge."""
        return self.image_size // self.patch_size

    @property
    def has_class_token(self) -> bool:
        """Whether a token that stands for no patch comes first."""
        return self.kind == CLIP


@dataclass(frozen=True, slots=True)
class Settings:
    """How a model looks at pictures.

    states: which hidden states of the tower are used; 0 is the embeddings, n what layer n
    returns. drops_first: whether the first token of the tower is left out. pinpoints: the
    resolutions (height, width) that a picture may be cut into tiles at; empty where the model
    sees one tile only. most_tiles: features of more tiles than that are interpolated to fewer.
    """

    model_type: str
    tower: TowerShape
    states: tuple[int, ...]
    drops_first: bool
    pinpoints: tuple[Size, ...]
    most_tiles: int | None
    projector_activation: str
    projector_bias: bool

    @classmethod
    def of(cls, files: ModelFiles) -> Settings:
        """Read the files of a model that `is_supported`. Raises ValueError."""
        config, kind = files.config, files.model_type
        tower = TowerShape.of(config["vision_config"])
        onevision = kind == "llava_onevision"
        layers = config.get("vision_feature_layer", -1 if onevision else -2)
        strategy = config.get("vision_feature_select_strategy", "full" if onevision else "default")
        if strategy not in ("default", "full"):
            raise ValueError(f"the vision_feature_select_strategy {strategy!r} is not supported")
        settings = cls(
            model_type=kind,
            tower=tower,
            states=tuple(
                _state(layer, tower.layers)
                for layer in (layers if isinstance(layers, list) else [layers])
            ),
            drops_first=strategy == "default",
            pinpoints=() if kind == "llava" else _pinpoints(config, onevision),
            most_tiles=_most_tiles(config) if onevision else None,
            projector_activation=str(config.get("projector_hidden_act", "gelu")),
            projector_bias=bool(config.get("multimodal_projector_bias", True)),
        )
        settings._check()
        return settings

    @property
    def tile_tokens(self) -> int:
        """Tokens that the tower makes of a tile."""
        return self.tower.side**2 + self.tower.has_class_token - self.drops_first

    def layout(self, size: Size) -> Layout:
        """How the tiles of a picture of this size are put together, if there are `pinpoints`."""
        tower = self.tower
        return layout(size, self.pinpoints, tower.image_size, tower.side, self.most_tiles)

    def _check(self) -> None:
        if self.pinpoints and self.tile_tokens != self.tower.side**2:
            raise ValueError(
                "tiles are put together from one token for each patch, but with its "
                f"vision_feature_select_strategy the tower makes {self.tile_tokens} tokens of "
                f"{self.tower.side**2} patches"
            )
        tile = self.tower.image_size
        if any(edge < tile or edge % tile for point in self.pinpoints for edge in point):
            raise ValueError(f"image_grid_pinpoints are not multiples of the tile of {tile} pixels")


def is_supported(files: ModelFiles) -> bool:
    """Whether this is a LLaVA model with a CLIP or SigLIP tower."""
    tower = files.config.get("vision_config")
    return (
        files.model_type in MODEL_TYPES
        and isinstance(tower, Mapping)
        and tower.get("model_type") in _TOWERS
    )


def placeholder(files: ModelFiles) -> str:
    """The text of the token that stands for a picture in prompts."""
    token = files.config.get("image_token_index", files.config.get("image_token_id"))
    path = Path(files.path) / "tokenizer.json"
    if token is None or not path.is_file():
        return "<image>"
    return Tokenizer.from_file(str(path)).id_to_token(int(token)) or "<image>"


def image_processor(files: ModelFiles) -> Mapping[str, Any]:
    """The settings of the image processor, which newer models keep in processor_config.json."""
    path = Path(files.path) / "processor_config.json"
    if files.preprocessor or not path.is_file():
        return files.preprocessor
    section: Mapping[str, Any] = json.loads(path.read_text("utf-8")).get("image_processor", {})
    return section


def _state(layer: int, layers: int) -> int:
    """The index of a hidden state; negative ones count from the end."""
    state = layer if layer >= 0 else layers + 1 + layer
    if not 0 <= state <= layers:
        raise ValueError(f"vision_feature_layer {layer} of a tower with {layers} layers")
    return state


def _pinpoints(config: Mapping[str, Any], onevision: bool) -> tuple[Size, ...]:
    given = config.get("image_grid_pinpoints")
    if given:
        return tuple((int(height), int(width)) for height, width in given)
    if onevision:
        return tuple((height, width) for height in _ONEVISION_EDGES for width in _ONEVISION_EDGES)
    return _NEXT_PINPOINTS


def _most_tiles(config: Mapping[str, Any]) -> int | None:
    match = re.fullmatch(r"anyres_max_(\d+)", config.get("vision_aspect_ratio", "anyres_max_9"))
    return int(match[1]) if match else None
