"""How a picture of any size is cut into tiles, and where the features of the tiles end up.

Section 3.1 of LLaVA-NeXT (https://llava-vl.github.io/blog/2024-01-30-llava-next/) and
appendix C of LLaVA-OneVision (arXiv:2408.03326), with the roundings of transformers, since
the model saw pictures so. Sizes are (height, width).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Size = tuple[int, int]


def best_resolution(size: Size, candidates: Sequence[Size]) -> Size:
    """The resolution that keeps most of a picture's pixels, and of such the smallest one."""

    def merit(candidate: Size) -> tuple[int, int]:
        height, width = candidate
        scale = min(width / size[1], height / size[0])
        kept = min(int(size[1] * scale) * int(size[0] * scale), size[0] * size[1])
        return kept, -height * width

    return max(candidates, key=merit)


def fitted(size: Size, resolution: Size) -> Size:
    """The largest size of a picture, in its own shape, within a resolution."""
    height, width = resolution
    by_width, by_height = width / size[1], height / size[0]
    if by_width < by_height:
        return min(math.ceil(size[0] * by_width), height), width
    return height, min(math.ceil(size[1] * by_height), width)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the features of a picture's tiles end up.

    tiles: rows and columns of tiles. margin: rows and columns of features that show only
    padding, on either side. features: what is left between the margins. shown: what that is
    interpolated to; the same as `features` where it is not.
    """

    tiles: Size
    margin: Size
    features: Size
    shown: Size

    @property
    def tokens(self) -> int:
        """Features that are shown, and a line break after each row."""
        return self.shown[0] * (self.shown[1] + 1)


def layout(
    size: Size, pinpoints: Sequence[Size], tile: int, side: int, most_tiles: int | None
) -> Layout:
    """Lay out a picture.

    tile: pixels along a tile's edge. side: features along it. most_tiles: features of more
    tiles than that are interpolated to fewer.
    """
    resolution = best_resolution(size, pinpoints)
    tiles = resolution[0] // tile, resolution[1] // tile
    grid = tiles[0] * side, tiles[1] * side
    margin = _margin(size, grid)
    features = grid[0] - 2 * margin[0], grid[1] - 2 * margin[1]
    return Layout(tiles, margin, features, _limited(features, side, most_tiles))


def _margin(size: Size, grid: Size) -> Size:
    """Rows and columns of a grid, on either side, that a picture of this shape leaves empty."""
    height, width = size
    if width / height > grid[1] / grid[0]:
        used = int(round(height * (grid[1] / width), 7))
        return (grid[0] - used) // 2, 0
    used = int(round(width * (grid[0] / height), 7))
    return 0, (grid[1] - used) // 2


def _limited(features: Size, side: int, most_tiles: int | None) -> Size:
    if most_tiles is None:
        return features
    ratio = math.sqrt(features[0] * features[1] / (most_tiles * side**2))
    if ratio <= 1.1:
        return features
    return int(features[0] // ratio), int(features[1] // ratio)
