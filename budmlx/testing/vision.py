"""Contract checks of vision preprocessors and encoders."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import numpy as np

from budmlx.plugins.vision import (
    Detail,
    Pixels,
    PreparedImage,
    VisionEncoder,
    VisionPreprocessorSpec,
)
from budmlx.testing.parsers import require

SIZES = ((1, 1), (1, 40), (33, 1), (48, 64), (224, 100))
DETAILS: tuple[Detail, ...] = ("auto", "low", "high")


def check_vision_preprocessor(spec: VisionPreprocessorSpec) -> None:
    """Prepare pictures of several sizes, alone and on several threads at once."""
    cases = list(_cases())
    alone = [_prepared(spec, pixels, detail) for pixels, detail in cases]
    with ThreadPoolExecutor(4) as pool:
        again = list(pool.map(lambda case: spec.prepare(*case), cases))
    for one, other in zip(alone, again, strict=True):
        require(_same(one, other), "the same picture is prepared differently")


def check_vision_encoder(make: Callable[[], VisionEncoder], spec: VisionPreprocessorSpec) -> None:
    """Encode what the preprocessor of `spec` prepares. make: a new encoder of one model."""
    encoder = make()
    require(isinstance(encoder.nbytes, int) and encoder.nbytes >= 0, "nbytes is no size")
    hidden = None
    for pixels, detail in _cases():
        image = spec.prepare(pixels, detail)
        arrays = {name: mx.array(array) for name, array in image.arrays.items()}
        found = encoder.encode(arrays)
        require(isinstance(found, mx.array) and found.ndim == 2, "it returns no [tokens, hidden]")
        require(found.shape[0] == image.tokens, f"{found.shape[0]} of {image.tokens} embeddings")
        hidden = hidden or found.shape[1]
        require(found.shape[1] == hidden, "the width of embeddings changes")
        require(bool(mx.isfinite(found).all()), "an embedding is not finite")
        require(bool(mx.array_equal(found, encoder.encode(arrays))), "it depends on calls before")


def _cases() -> Iterator[tuple[Pixels, Detail]]:
    random = np.random.default_rng(0)
    for height, width in SIZES:
        for detail in DETAILS:
            yield random.integers(0, 256, (height, width, 3), np.uint8), detail


def _prepared(spec: VisionPreprocessorSpec, pixels: Pixels, detail: Detail) -> PreparedImage:
    before = pixels.copy()
    image = spec.prepare(pixels, detail)
    require(isinstance(image, PreparedImage), f"it returned a {type(image).__name__}")
    require(np.array_equal(pixels, before), "it changes the picture that it was given")
    if spec.placeholder:
        require(image.tokens > 0 and not image.text, "a picture needs tokens, and has no text")
    else:
        require(image.tokens == 0 and not image.arrays, "there is no placeholder for tokens")
    for name, array in image.arrays.items():
        require(array.dtype.kind in "fiub", f"{name} is {array.dtype}")
        require(array.flags.c_contiguous, f"{name} is not C-contiguous")
    return image


def _same(one: PreparedImage, other: PreparedImage) -> bool:
    if (one.text, one.tokens, one.arrays.keys()) != (other.text, other.tokens, other.arrays.keys()):
        return False
    return all(np.array_equal(array, other.arrays[name]) for name, array in one.arrays.items())
