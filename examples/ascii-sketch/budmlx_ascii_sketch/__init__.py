"""Pictures for models that know only text: each stands in the prompt as a sketch of characters."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from budmlx import hookimpl
from budmlx.plugins.vision import Detail, ModelFiles, Pixels, PreparedImage, VisionPreprocessorSpec

NAME = "ascii-sketch"
# From black to white.
CHARACTERS = np.array(list("@%#*+=-:. "))
COLUMNS = {"low": 24, "auto": 48, "high": 96}
# Characters are about twice as high as wide.
ASPECT = 2
# The shares of red, green and blue in how bright a pixel is (ITU-R BT.601).
LUMA = (0.299, 0.587, 0.114)


@hookimpl(trylast=True)
def provide_vision_preprocessor(name: str, model: ModelFiles) -> VisionPreprocessorSpec | None:
    """Sketches for models without eyes; for others only if the setting names this plugin."""
    if name == NAME or (name == "auto" and "vision_config" not in model.config):
        return VisionPreprocessorSpec(NAME, prepare)
    return None


def prepare(pixels: Pixels, detail: Detail) -> PreparedImage:
    """A sketch as wide as `detail` says."""
    return PreparedImage(text=f"```\n{sketch(pixels, COLUMNS[detail])}\n```\n")


def sketch(pixels: Pixels, columns: int) -> str:
    """Lines of characters, the darker the fuller."""
    height, width, _ = pixels.shape
    columns = min(columns, width)
    lines = max(1, min(height, columns, round(columns * height / width / ASPECT)))
    luma = _means(_means(pixels.astype(np.float32) @ np.array(LUMA, np.float32), lines).T, columns)
    places = (luma.T / 256 * len(CHARACTERS)).astype(int)
    return "\n".join("".join(line) for line in CHARACTERS[places])


def _means(values: NDArray[Any], parts: int) -> NDArray[Any]:
    """The means of as many equal parts of the rows."""
    starts = np.arange(parts) * len(values) // parts
    sums = np.add.reduceat(values, starts, axis=0)
    result: NDArray[Any] = sums / np.diff([*starts, len(values)])[:, None]
    return result
