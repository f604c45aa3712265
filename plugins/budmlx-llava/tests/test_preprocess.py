"""Preprocessing against the image processors of transformers, and its limits."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from budmlx_llava.grid import best_resolution
from budmlx_llava.preprocess import Preprocessor, normalization
from budmlx_llava.settings import Settings
from checkpoints import (
    CLIP_PROCESSOR,
    INTERLEAVE,
    LLAVA,
    NEXT,
    ONEVISION,
    PINPOINTS,
    SIGLIP_PROCESSOR,
    picture,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.image_processing_utils import select_best_resolution
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)
from transformers.models.llava_next.processing_llava_next import LlavaNextProcessor
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)
from transformers.models.llava_onevision.processing_llava_onevision import (
    LlavaOnevisionProcessor,
)
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from budmlx.errors import InvalidRequestError
from budmlx.plugins.vision import Detail, ModelFiles, PreparedImage

# For what rounds otherwise; a level is a thousand times as much.
ROUNDING = 1e-5
SIZES = [(28, 28), (60, 41), (41, 60), (20, 30), (113, 30), (9, 200), (200, 9), (300, 301)]


class Normalizing:
    """A preprocessor whose levels of brightness are made numbers, as the encoder does it."""

    def __init__(self, files: ModelFiles):
        self._prepare = Preprocessor(Settings.of(files), files)
        self._scale, self._offset = normalization(Settings.of(files), files)

    def __call__(self, pixels: Any, detail: Detail) -> PreparedImage:
        image = self._prepare(pixels, detail)
        levels = image.arrays["pixel_values"]
        assert levels.dtype == np.uint8 and levels.flags.c_contiguous
        values = levels.astype(np.float32) * self._scale - self._offset
        arrays = {**image.arrays, "pixel_values": values}
        return PreparedImage(tokens=image.tokens, arrays=arrays)


def preprocessor(config: dict[str, Any], processor: dict[str, Any]) -> Normalizing:
    return Normalizing(ModelFiles("nowhere", config, processor))


def reference(processor: Any, *pixels: Any, **options: Any) -> np.ndarray[Any, Any]:
    """Tiles [tiles, height, width, 3] of the first picture."""
    values = processor(list(pixels), **options)["pixel_values"][0]
    return np.moveaxis(np.atleast_3d(values), -3, -1).reshape(-1, *values.shape[-2:], 3)


def assert_same(ours: Any, theirs: Any) -> None:
    values = ours.arrays["pixel_values"]
    assert values.shape == theirs.shape
    assert np.abs(values - theirs).max() <= ROUNDING


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("resample", [2, 3])
def test_clip(size: tuple[int, int], resample: int) -> None:
    settings = {**CLIP_PROCESSOR, "resample": resample}
    pixels = picture(*size)
    ours = preprocessor(LLAVA, settings)(pixels, "auto")
    assert ours.tokens == 16
    assert_same(ours, reference(CLIPImageProcessorPil(**settings), pixels))


def test_a_picture_smaller_than_the_crop_gets_a_frame() -> None:
    settings = {**CLIP_PROCESSOR, "size": {"shortest_edge": 19}}
    for size in SIZES:
        ours = preprocessor(LLAVA, settings)(picture(*size), "auto")
        theirs = reference(CLIPImageProcessorPil(**settings), picture(*size))
        assert_same(ours, theirs)


def test_padded_to_a_square() -> None:
    settings = {**CLIP_PROCESSOR, "do_pad": True, "image_mean": [0.1, 0.5, 0.9]}
    for size in SIZES:
        ours = preprocessor(LLAVA, settings)(picture(*size), "auto")
        assert_same(ours, reference(LlavaImageProcessorPil(**settings), picture(*size)))


@pytest.mark.parametrize("size", SIZES)
def test_siglip(size: tuple[int, int]) -> None:
    pixels = picture(*size)
    ours = preprocessor(INTERLEAVE, SIGLIP_PROCESSOR)(pixels, "auto")
    assert ours.tokens == 16
    assert_same(ours, reference(SiglipImageProcessorPil(**SIGLIP_PROCESSOR), pixels))


def test_what_is_turned_off_is_left_out() -> None:
    for off in ("do_rescale", "do_normalize"):
        settings = {**SIGLIP_PROCESSOR, off: False}
        ours = preprocessor(INTERLEAVE, settings)(picture(50, 40), "auto")
        assert_same(ours, reference(SiglipImageProcessorPil(**settings), picture(50, 40)))


@pytest.mark.parametrize("size", SIZES)
def test_next(size: tuple[int, int]) -> None:
    pixels = picture(*size)
    ours = preprocessor(NEXT, CLIP_PROCESSOR)(pixels, "high")
    theirs = LlavaNextImageProcessorPil(**CLIP_PROCESSOR, image_grid_pinpoints=PINPOINTS)
    assert_same(ours, reference(theirs, pixels))
    assert ours.arrays["image_size"].tolist() == list(size)


@pytest.mark.parametrize("size", SIZES)
def test_onevision(size: tuple[int, int]) -> None:
    pixels = picture(*size)
    prepare = preprocessor(ONEVISION, SIGLIP_PROCESSOR)
    theirs = LlavaOnevisionImageProcessorPil(**SIGLIP_PROCESSOR, image_grid_pinpoints=PINPOINTS)
    assert_same(prepare(pixels, "auto"), reference(theirs, pixels))
    # With several pictures in a prompt, the reference looks at each as one tile.
    several = theirs([[pixels, pixels]])["pixel_values"][0]
    several = np.moveaxis(several, -3, -1)
    low = prepare(pixels, "low")
    assert low.tokens == 17 and "image_size" not in low.arrays
    assert_same(low, several[:1])


def test_low_detail_is_the_whole_picture_alone() -> None:
    prepare = preprocessor(NEXT, CLIP_PROCESSOR)
    low, high = prepare(picture(90, 50), "low"), prepare(picture(90, 50), "high")
    assert low.tokens == 17
    assert np.array_equal(low.arrays["pixel_values"], high.arrays["pixel_values"][:1])


EDGES = st.integers(1, 3000)
REAL = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
EDGES_OF_ONEVISION = range(384, 2305, 384)
REAL_ONEVISION = [[h, w] for h in EDGES_OF_ONEVISION for w in EDGES_OF_ONEVISION]


@settings(deadline=None)
@given(EDGES, EDGES)
def test_the_grid_is_that_of_transformers(height: int, width: int) -> None:
    for pinpoints in (REAL, REAL_ONEVISION):
        expected = tuple(select_best_resolution((height, width), pinpoints))
        assert tuple(best_resolution((height, width), pinpoints)) == expected


@settings(max_examples=50, deadline=None)
@given(EDGES, EDGES)
def test_the_number_of_tokens_is_that_of_transformers(height: int, width: int) -> None:
    next_ = SimpleNamespace(
        image_processor=SimpleNamespace(image_grid_pinpoints=REAL),
        patch_size=14,
        num_additional_image_tokens=1,
        _get_unpadded_features=lambda *a: LlavaNextProcessor._get_unpadded_features(None, *a),
    )
    count = LlavaNextProcessor._get_number_of_features(next_, height, width, 336, 336) - 1
    assert tokens("llava_next", "clip", 336, (height, width)) == count
    onevision = SimpleNamespace(
        image_processor=SimpleNamespace(image_grid_pinpoints=REAL_ONEVISION),
        num_image_tokens=729,
        vision_aspect_ratio="anyres_max_9",
    )
    onevision._get_unpadded_features = lambda *a: LlavaOnevisionProcessor._get_unpadded_features(
        onevision, *a
    )
    count = LlavaOnevisionProcessor._get_number_of_features(onevision, height, width, 384, 384)
    assert tokens("llava_onevision", "siglip", 384, (height, width)) == count


def tokens(kind: str, tower: str, edge: int, size: tuple[int, int]) -> int:
    vision = {"model_type": f"{tower}_vision_model", "image_size": edge, "patch_size": 14}
    found = Settings.of(ModelFiles("", {"model_type": kind, "vision_config": vision}))
    return found.tile_tokens + found.layout(size).tokens


def test_settings_within_processor_config(tmp_path: Path) -> None:
    section = {"image_processor": {**SIGLIP_PROCESSOR, "image_mean": [0.2, 0.2, 0.2]}}
    (tmp_path / "processor_config.json").write_text(json.dumps(section))
    files = ModelFiles(str(tmp_path), INTERLEAVE)
    black = np.zeros((28, 28, 3), np.uint8)
    values = Normalizing(files)(black, "auto").arrays["pixel_values"]
    assert np.allclose(values, -0.4, atol=1e-3)


def test_what_would_take_much_memory_is_refused() -> None:
    long = np.zeros((1, 2**18, 3), np.uint8)
    padding = {**CLIP_PROCESSOR, "do_pad": True}
    for prepare in (preprocessor(LLAVA, CLIP_PROCESSOR), preprocessor(LLAVA, padding)):
        with pytest.raises(InvalidRequestError, match="262144 by 1"):
            prepare(long, "auto")
    assert preprocessor(NEXT, CLIP_PROCESSOR)(long, "auto").tokens == 16 + 0


@pytest.mark.parametrize(
    ("config", "processor", "match"),
    [
        (LLAVA, {**CLIP_PROCESSOR, "do_resize": False}, "do_resize"),
        (LLAVA, {**CLIP_PROCESSOR, "crop_size": 56}, "28 pixels"),
        (LLAVA, {**CLIP_PROCESSOR, "do_center_crop": False}, "28 pixels"),
        (LLAVA, {**CLIP_PROCESSOR, "size": {"longest_edge": 28}}, "not supported"),
        (NEXT, {**CLIP_PROCESSOR, "size": 56}, "28 pixels"),
        ({**NEXT, "image_grid_pinpoints": [[28, 30]]}, CLIP_PROCESSOR, "multiples"),
        ({**NEXT, "vision_feature_select_strategy": "full"}, CLIP_PROCESSOR, "17 tokens"),
        ({**LLAVA, "vision_feature_select_strategy": "cls"}, CLIP_PROCESSOR, "'cls'"),
        ({**LLAVA, "vision_feature_layer": 4}, CLIP_PROCESSOR, "layer 4"),
    ],
)
def test_what_cannot_be_is_refused(
    config: dict[str, Any], processor: dict[str, Any], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        preprocessor(config, processor)
