"""The contract checks of vision find what they are for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from budmlx.plugins.vision import (
    Detail,
    ModelFiles,
    ModelLoaderSpec,
    Pixels,
    PreparedImage,
    VisionEncoderSpec,
    VisionPreprocessorSpec,
)
from budmlx.testing import check_vision_encoder, check_vision_preprocessor
from tests.vision_plugin import TOKEN, prepare
from tests.vision_plugin_core import Encoder

QUARTERS = VisionPreprocessorSpec("quarters", prepare, placeholder=TOKEN)


def test_right_ones() -> None:
    check_vision_preprocessor(QUARTERS)
    check_vision_encoder(lambda: Encoder(16), QUARTERS)


def changing(pixels: Pixels, detail: Detail) -> PreparedImage:
    pixels[0, 0] ^= 1
    return prepare(pixels, detail)


def moody(pixels: Pixels, detail: Detail) -> PreparedImage:
    noise = np.random.default_rng().random((1, 3), np.float32)
    return PreparedImage(tokens=1, arrays={"colours": noise})


def transposed(pixels: Pixels, detail: Detail) -> PreparedImage:
    return PreparedImage(tokens=1, arrays={"colours": np.zeros((3, 2)).T})


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (changing, "changes the picture"),
        (moody, "prepared differently"),
        (transposed, "not C-contiguous"),
        (lambda pixels, detail: PreparedImage(text="words"), "needs tokens"),
        (lambda pixels, detail: "words", "returned a str"),
    ],
)
def test_wrong_preprocessors(wrong: Any, problem: str) -> None:
    with pytest.raises(AssertionError, match=problem):
        check_vision_preprocessor(replace(QUARTERS, prepare=wrong))
    if problem == "needs tokens":
        check_vision_preprocessor(replace(QUARTERS, prepare=wrong, placeholder=""))


class Short(Encoder):
    def encode(self, arrays: Mapping[str, mx.array]) -> mx.array:
        return super().encode(arrays)[:1]


class Tired(Encoder):
    def encode(self, arrays: Mapping[str, mx.array]) -> mx.array:
        return super().encode(arrays) + self.calls


@pytest.mark.parametrize(("wrong", "problem"), [(Short, "1 of 4"), (Tired, "calls before")])
def test_wrong_encoders(wrong: type[Encoder], problem: str) -> None:
    with pytest.raises(AssertionError, match=problem):
        check_vision_encoder(lambda: wrong(16), QUARTERS)


def test_data_that_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not of the form"):
        VisionEncoderSpec("quarters", "no target")
    with pytest.raises(ValueError, match="model types"):
        ModelLoaderSpec("quarters", ("a b",), "package.module:classes")
    (tmp_path / "config.json").write_text('{"model_type": "x"}')
    assert ModelFiles.read(tmp_path) == ModelFiles(str(tmp_path), {"model_type": "x"})
