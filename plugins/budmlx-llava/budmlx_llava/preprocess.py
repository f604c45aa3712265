"""Pictures to arrays, as the image processors of transformers make them: resized by pillow,
the rest in numpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from budmlx.errors import InvalidRequestError
from budmlx.plugins.vision import Detail, ModelFiles, Pixels, PreparedImage
from budmlx_llava.grid import Layout, Size, fitted
from budmlx_llava.settings import CLIP, Settings, image_processor

# Means and standard deviations of red, green and blue that CLIP and SigLIP were trained with.
_CLIP_COLORS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_SIGLIP_COLORS = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
# Of a picture between two steps. Only pictures that are hundreds of times longer than wide
# have more, or such as are padded to a square.
_MOST_PIXELS = 2**26


Numbers = NDArray[np.floating[Any]]


class Preprocessor:
    """Prepares pictures for one model. Its instances may be called on several threads."""

    def __init__(self, settings: Settings, files: ModelFiles):
        """Read the settings of the image processor. Raises ValueError where it asks for what
        the tower cannot take."""
        config = image_processor(files)
        self._settings = settings
        self._edge = settings.tower.image_size
        self._size = _size(config.get("size") or self._edge)
        crops = config.get("do_center_crop", settings.tower.kind == CLIP)
        self._crop = _crop(config.get("crop_size") or self._edge) if crops else None
        self._resample = Image.Resampling(config.get("resample", Image.Resampling.BICUBIC))
        self._mean = colors(settings, config)[0]
        self._pads = bool(config.get("do_pad")) and settings.model_type == "llava"
        self._check(bool(config.get("do_resize", True)))

    def __call__(self, pixels: Pixels, detail: Detail) -> PreparedImage:
        """The arrays `pixel_values` [tiles, height, width, 3], levels of brightness as bytes, and,
        if there is more than one tile, `image_size` (height, width), that of the picture.

        The encoder makes numbers of them, see `normalization`: bytes are a half or a quarter of
        those on their way to the core.

        detail: models that look at tiles see only the whole picture with `low`.

        Raises:
            InvalidRequestError: the picture is too long for its height, or the other way round.
        """
        settings = self._settings
        tokens = settings.tile_tokens
        if not settings.pinpoints:
            picture = self._square(pixels) if self._pads else pixels
            return PreparedImage(
                tokens=tokens, arrays={"pixel_values": np.stack([self._whole(picture)])}
            )
        if detail == "low":
            # OneVision was trained on padded squares where a prompt has several pictures.
            onevision = settings.model_type == "llava_onevision"
            picture = self._square(pixels) if onevision else pixels
            single = np.stack([self._resized(picture, (self._edge, self._edge))])
            return PreparedImage(tokens=tokens + 1, arrays={"pixel_values": single})
        size = pixels.shape[0], pixels.shape[1]
        placed = settings.layout(size)
        tiles = [self._resized(pixels, (self._edge, self._edge)), *self._tiles(pixels, placed)]
        arrays: dict[str, NDArray[Any]] = {
            "pixel_values": np.stack(tiles),
            "image_size": np.array(size, dtype=np.int32),
        }
        return PreparedImage(tokens=tokens + placed.tokens, arrays=arrays)

    def _check(self, resizes: bool) -> None:
        square = (self._edge, self._edge)
        if not resizes:
            raise ValueError("preprocessor_config.json turns do_resize off")
        if self._settings.pinpoints:
            fits = self._size in (self._edge, square) and self._crop in (None, square)
        else:
            fits = (self._crop or self._size) == square
        if not fits:
            raise ValueError(f"the preprocessor does not make squares of {self._edge} pixels")

    def _whole(self, pixels: Pixels) -> Pixels:
        """The picture resized, and its middle cut out where the model wants that."""
        if isinstance(self._size, tuple):
            target = self._size
        else:
            height, width = pixels.shape[:2]
            short, long = min(height, width), max(height, width)
            longer = int(self._size * long / short)
            target = (longer, self._size) if width <= height else (self._size, longer)
        resized = self._resized(pixels, target)
        return _middle(resized, self._crop) if self._crop else resized

    def _resized(self, pixels: Pixels, size: Size) -> Pixels:
        _check_area(pixels, size)
        image = Image.fromarray(pixels).resize((size[1], size[0]), self._resample)
        return np.asarray(image)

    def _tiles(self, pixels: Pixels, placed: Layout) -> Pixels:
        """The picture as large as it fits into the grid, on black, cut into
        [tiles, height, width, 3], row by row."""
        edge, (rows, columns) = self._edge, placed.tiles
        resolution = rows * edge, columns * edge
        resized = self._resized(pixels, fitted((pixels.shape[0], pixels.shape[1]), resolution))
        canvas = np.zeros((*resolution, 3), np.uint8)
        top = (resolution[0] - resized.shape[0]) // 2
        left = (resolution[1] - resized.shape[1]) // 2
        canvas[top : top + resized.shape[0], left : left + resized.shape[1]] = resized
        cut = canvas.reshape(rows, edge, columns, edge, 3).swapaxes(1, 2)
        return cut.reshape(-1, edge, edge, 3)

    def _square(self, pixels: Pixels) -> Pixels:
        """The picture in the middle of a square of the mean color."""
        height, width = pixels.shape[:2]
        edge = max(height, width)
        if height == width:
            return pixels
        _check_area(pixels, (edge, edge))
        square = np.empty((edge, edge, 3), np.uint8)
        square[:] = (self._mean * 255).astype(np.uint8)
        top, left = (edge - height) // 2, (edge - width) // 2
        square[top : top + height, left : left + width] = pixels
        return square


def colors(settings: Settings, config: Mapping[str, Any]) -> tuple[Numbers, Numbers]:
    """The mean and the standard deviation of red, green and blue.

    config: of the image processor.
    """
    mean, deviation = _CLIP_COLORS if settings.tower.kind == CLIP else _SIGLIP_COLORS
    given = config.get("image_mean") or mean, config.get("image_std") or deviation
    return np.array(given[0]), np.array(given[1])


def normalization(settings: Settings, files: ModelFiles) -> tuple[Numbers, Numbers]:
    """For red, green and blue: what a level of brightness is multiplied by, and what is then
    subtracted, in single precision.
    """
    config = image_processor(files)
    mean, deviation = colors(settings, config)
    factor = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0
    normalized = config.get("do_normalize", True)
    scale = factor / deviation if normalized else np.full(3, factor)
    offset = mean / deviation if normalized else np.zeros(3)
    return scale.astype(np.float32), offset.astype(np.float32)


def _size(value: Any) -> int | Size:
    """The length of the shortest edge, or (height, width)."""
    if isinstance(value, Mapping):
        if "shortest_edge" in value and value.get("longest_edge") is None:
            return int(value["shortest_edge"])
        if "height" in value and "width" in value:
            return int(value["height"]), int(value["width"])
    elif isinstance(value, int):
        return value
    raise ValueError(f"the preprocessor's size {value!r} is not supported")


def _crop(value: Any) -> Size:
    size = _size(value)
    return size if isinstance(size, tuple) else (size, size)


def _middle(pixels: Pixels, size: Size) -> Pixels:
    """The middle of a picture, on black where it is too small. An odd pixel is cut off at
    the bottom and the right, and added at the top and the left."""
    height, width = pixels.shape[:2]
    top, left = max(0, height - size[0]) // 2, max(0, width - size[1]) // 2
    cut = pixels[top : top + size[0], left : left + size[1]]
    if cut.shape[:2] == size:
        return cut
    frame = np.zeros((*size, 3), np.uint8)
    top, left = (size[0] - cut.shape[0] + 1) // 2, (size[1] - cut.shape[1] + 1) // 2
    frame[top : top + cut.shape[0], left : left + cut.shape[1]] = cut
    return frame


def _check_area(pixels: Pixels, size: Size) -> None:
    if size[0] * size[1] > _MOST_PIXELS:
        height, width = pixels.shape[:2]
        raise InvalidRequestError(
            f"A picture of {width} by {height} pixels is too narrow for this model. Cut it."
        )
