"""Tower, projector and packing against plain numpy, for checkpoints in all layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from budmlx_llava import provide_vision_encoder, provide_vision_preprocessor
from budmlx_llava.encoder import Encoder, load
from budmlx_llava.preprocess import normalization
from budmlx_llava.settings import Settings
from checkpoints import LLAVA, MODELS, NEXT, ONEVISION, picture, write_llava
from mlx.utils import tree_flatten
from reference import Reference

from budmlx.plugins.vision import Detail, ModelFiles
from budmlx.testing.vision import check_vision_encoder, check_vision_preprocessor


def encode(encoder: Encoder, files: ModelFiles, pixels: Any, detail: Detail = "auto") -> Any:
    """What the tower sees of a picture, and its embeddings."""
    spec = provide_vision_preprocessor("auto", files)
    assert spec is not None
    prepared = spec.prepare(pixels, detail)
    arrays = {name: mx.array(array) for name, array in prepared.arrays.items()}
    embeddings = encoder.encode(arrays)
    assert embeddings.shape == (prepared.tokens, 64)
    scale, offset = normalization(Settings.of(files), files)
    seen = prepared.arrays["pixel_values"].astype(np.float32) * scale - offset
    return {**prepared.arrays, "pixel_values": seen}, embeddings


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("size", [(28, 28), (50, 33), (33, 120), (150, 160)])
def test_embeddings(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    weights = write_llava(tmp_path, MODELS[name])
    files = ModelFiles.read(tmp_path)
    arrays, embeddings = encode(load(files), files, picture(*size))
    expected = Reference(MODELS[name], weights).encode(arrays["pixel_values"], size)
    np.testing.assert_allclose(np.array(embeddings), expected, rtol=1e-4, atol=1e-4)
    assert np.abs(expected).max() > 0.5


@pytest.mark.parametrize("name", MODELS)
def test_contracts(name: str, tmp_path: Path) -> None:
    write_llava(tmp_path, MODELS[name])
    files = ModelFiles.read(tmp_path)
    spec = provide_vision_preprocessor("auto", files)
    assert spec is not None
    check_vision_preprocessor(spec)
    check_vision_encoder(lambda: load(files), spec)


@pytest.mark.parametrize("config", [NEXT, ONEVISION])
def test_a_single_tile(config: dict[str, Any], tmp_path: Path) -> None:
    weights = write_llava(tmp_path, config)
    files = ModelFiles.read(tmp_path)
    arrays, embeddings = encode(load(files), files, picture(70, 40), "low")
    expected = Reference(config, weights).encode(arrays["pixel_values"], None)
    np.testing.assert_allclose(np.array(embeddings), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"vision_feature_layer": [-3, 1, -1]},
        {"vision_feature_layer": 0},
        {"vision_feature_select_strategy": "full"},
    ],
)
def test_hidden_states(change: dict[str, Any], tmp_path: Path) -> None:
    config = {**LLAVA, **change}
    weights = write_llava(tmp_path, config)
    files = ModelFiles.read(tmp_path)
    arrays, embeddings = encode(load(files), files, picture(50, 40))
    expected = Reference(config, weights).encode(arrays["pixel_values"], None)
    np.testing.assert_allclose(np.array(embeddings), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", ["new", "mlx"])
@pytest.mark.parametrize("name", MODELS)
def test_layouts(layout: Any, name: str, tmp_path: Path) -> None:
    results = []
    for variant in ("published", layout):
        path = tmp_path / variant
        write_llava(path, MODELS[name], layout=variant)
        files = ModelFiles.read(path)
        results.append(encode(load(files), files, picture(60, 90))[1])
    assert mx.array_equal(*results)


@pytest.mark.parametrize("bits", [4, 8])
def test_quantized_towers(bits: int, tmp_path: Path) -> None:
    """The embeddings are those of weights that went through the quantization and back."""
    weights = write_llava(tmp_path, NEXT, layout="mlx", tower_bits=bits)
    files = ModelFiles.read(tmp_path)
    encoder = load(files)
    rounded = {name: _rounded(array, bits) for name, array in weights.items()}
    assert any(np.any(rounded[name] != weights[name]) for name in weights)
    arrays, embeddings = encode(encoder, files, picture(60, 40))
    expected = Reference(NEXT, rounded).encode(arrays["pixel_values"], (60, 40))
    np.testing.assert_allclose(np.array(embeddings), expected, rtol=1e-3, atol=1e-3)


def _rounded(array: Any, bits: int) -> Any:
    if array.ndim != 2 or array.shape[1] % 32 or array.size % 64:
        return array
    packed = mx.quantize(mx.array(array), group_size=32, bits=bits)
    return np.array(mx.dequantize(*packed, group_size=32, bits=bits))


def test_only_what_is_used_is_kept(tmp_path: Path) -> None:
    write_llava(tmp_path, LLAVA)
    encoder = load(ModelFiles.read(tmp_path))
    names = [name for name, _ in tree_flatten(encoder._vision.parameters())]
    assert not [name for name in names if "layers.2" in name or "post" in name]
    assert encoder.nbytes == sum(x.nbytes for _, x in tree_flatten(encoder._vision.parameters()))


def test_embeddings_have_the_language_models_type(tmp_path: Path) -> None:
    write_llava(tmp_path, LLAVA, bits=4)
    weights = dict(mx.load(str(tmp_path / "model.safetensors")))
    half = {
        name: array.astype(mx.bfloat16) if name.endswith(("norm.weight", "scales")) else array
        for name, array in weights.items()
    }
    mx.save_safetensors(str(tmp_path / "model.safetensors"), half)
    files = ModelFiles.read(tmp_path)
    _, embeddings = encode(load(files), files, picture(30, 30))
    assert embeddings.dtype == mx.bfloat16


def test_a_picture_so_long_that_the_grid_shows_nothing_of_it(tmp_path: Path) -> None:
    write_llava(tmp_path, NEXT)
    files = ModelFiles.read(tmp_path)
    _, embeddings = encode(load(files), files, picture(1, 5000))
    assert embeddings.shape == (16, 64)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    write_llava(tmp_path, LLAVA)
    file = str(tmp_path / "model.safetensors")
    weights = dict(mx.load(file))
    name = "vision_tower.vision_model.encoder.layers.1.mlp.fc1.bias"
    mx.save_safetensors(file, {key: weights[key] for key in weights if key != name})
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.fc1\.bias"):
        load(ModelFiles.read(tmp_path))
    text = {key: weights[key] for key in weights if key.startswith("language_model.")}
    mx.save_safetensors(file, text)
    with pytest.raises(ValueError, match="lack multi_modal_projector"):
        load(ModelFiles.read(tmp_path))


def test_other_models_are_left_to_others(tmp_path: Path) -> None:
    pixtral = {**LLAVA, "vision_config": {"model_type": "pixtral"}}
    for config in ({"model_type": "llama"}, pixtral, {"model_type": "llava"}):
        files = ModelFiles("", config)
        assert provide_vision_encoder(files) is None
        assert provide_vision_preprocessor("auto", files) is None
    write_llava(tmp_path, LLAVA)
    files = ModelFiles.read(tmp_path)
    assert provide_vision_preprocessor("ascii-sketch", files) is None
    spec = provide_vision_preprocessor("llava", files)
    assert spec is not None and spec.placeholder == "<image>"


def test_the_placeholder_is_looked_up(tmp_path: Path) -> None:
    write_llava(tmp_path, LLAVA)
    config = json.loads((tmp_path / "config.json").read_text())
    token = config.pop("image_token_index")
    spec = provide_vision_preprocessor("auto", ModelFiles(str(tmp_path), config))
    assert spec is not None and spec.placeholder == "<image>"
    config["image_token_id"] = token - 1
    spec = provide_vision_preprocessor("auto", ModelFiles(str(tmp_path), config))
    assert spec is not None and spec.placeholder not in ("", "<image>")
