"""Arrays of the preprocessor to embeddings of the language model. Only the core imports this."""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from budmlx.plugins.vision import ModelFiles
from budmlx_llava.preprocess import normalization
from budmlx_llava.settings import Settings
from budmlx_llava.weights import Vision, load_vision

# Tiles that go through the tower at once. OneVision may cut a picture into 36 of them.
_TILES = 4


def load(files: ModelFiles) -> Encoder:
    """The encoder of a LLaVA model; its weights are read from disk when they are first used.

    Raises:
        ValueError: the files are not those of a LLaVA model with a CLIP or SigLIP tower.
        OSError: a file cannot be read.
    """
    settings = Settings.of(files)
    vision, dtype = load_vision(files, settings)
    scale, offset = map(mx.array, normalization(settings, files))
    return Encoder(settings, vision, dtype, scale, offset)


class Encoder:
    """Tower and projector. Its embeddings are of the language model's dtype.

    scale, offset: of red, green and blue, see `normalization`.
    """

    def __init__(
        self,
        settings: Settings,
        vision: Vision,
        dtype: mx.Dtype,
        scale: mx.array,
        offset: mx.array,
    ):
        self._scale, self._offset = scale, offset
        self._settings = settings
        self._vision = vision
        self._dtype = dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the weights."""
        return sum(leaf.nbytes for _, leaf in tree_flatten(self._vision.parameters()))

    def encode(self, arrays: Mapping[str, mx.array]) -> mx.array:
        """Embeddings [tokens, hidden] of one picture.

        arrays: `pixel_values` [tiles, height, width, 3] in bytes, the whole picture first, and
        `image_size` (height, width) where there are further tiles.
        """
        pixels = arrays["pixel_values"]
        features = mx.concatenate(
            [
                self._features(pixels[start : start + _TILES])
                for start in range(0, pixels.shape[0], _TILES)
            ]
        )
        if not self._settings.pinpoints:
            return features[0].astype(self._dtype)
        newline = self._vision.image_newline.astype(features.dtype)
        if features.shape[0] == 1:
            parts = [features[0], newline[None]]
        else:
            height, width = (int(edge) for edge in arrays["image_size"].tolist())
            rows = self._rows(features[1:], (height, width))
            breaks = mx.broadcast_to(newline, (rows.shape[0], 1, rows.shape[2]))
            parts = [features[0], mx.concatenate([rows, breaks], axis=1).flatten(0, 1)]
        return mx.concatenate(parts).astype(self._dtype)

    def _features(self, tiles: mx.array) -> mx.array:
        """Projected features [tiles, tokens, hidden], computed at once to bound memory."""
        pixels = tiles.astype(mx.float32) * self._scale - self._offset
        states = self._vision.vision_tower(pixels.astype(self._vision.dtype))
        if self._settings.drops_first:
            states = states[:, 1:]
        features: mx.array = self._vision.multi_modal_projector(states)
        mx.eval(features)
        return features

    def _rows(self, tiles: mx.array, size: tuple[int, int]) -> mx.array:
        """Features [rows, columns, hidden] of the whole grid, without those of padding."""
        side = self._settings.tower.side
        placed = self._settings.layout(size)
        grid = tiles.reshape(*placed.tiles, side, side, -1).swapaxes(1, 2)
        grid = grid.flatten(0, 1).flatten(1, 2)
        (top, left), (rows, columns) = placed.margin, placed.features
        features = grid[top : top + rows, left : left + columns]
        if placed.shown == placed.features:
            return features
        down = _bilinear(rows, placed.shown[0])
        across = _bilinear(columns, placed.shown[1])
        resized = across @ (down @ features.astype(mx.float32).flatten(1)).reshape(
            placed.shown[0], columns, -1
        )
        return resized.astype(features.dtype)


def _bilinear(length: int, wanted: int) -> mx.array:
    """The matrix [wanted, length] of a linear interpolation between the centers of cells, as
    PyTorch's `interpolate(mode="bilinear", align_corners=False)` has it."""
    places = np.maximum((np.arange(wanted) + 0.5) * length / wanted - 0.5, 0)
    low = places.astype(int)
    high = np.minimum(low + 1, length - 1)
    matrix = np.zeros((wanted, length), np.float32)
    np.add.at(matrix, (np.arange(wanted), low), 1 - (places - low))
    np.add.at(matrix, (np.arange(wanted), high), places - low)
    return mx.array(matrix)
