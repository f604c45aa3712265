"""A model that is too large is refused by the headers of its files, before anything is read."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import pytest

from budmlx.core.model.memory_policy import MIB
from budmlx.core.model.vision import Vision
from budmlx.errors import ModelLoadError
from budmlx.protocol import PluginTarget
from budmlx.testing.tiny_random import write_random_model
from tests.core.architectures import BASE
from tests.core.driver import load
from tests.models import tiny_model_dir

# Weights of about 15 MiB in float32.
LARGE = {**BASE, "model_type": "llama", "hidden_size": 512, "intermediate_size": 1024}


def header_bytes(directory: Path) -> int:
    """Bytes of all tensors in the files of a directory."""
    total = 0
    for file in directory.glob("*.safetensors"):
        content = file.read_bytes()
        length = int.from_bytes(content[:8], "little")
        tensors = json.loads(content[8 : 8 + length])
        tensors.pop("__metadata__", None)
        total += sum(t["data_offsets"][1] - t["data_offsets"][0] for t in tensors.values())
    return total


def split(directory: Path) -> Path:
    """The same weights in two files."""
    whole = directory / "model.safetensors"
    weights = dict(mx.load(str(whole)).items())
    whole.unlink()
    names = sorted(weights)
    files = {f"model-0000{n}-of-00002.safetensors": names[n - 1 :: 2] for n in (1, 2)}
    for file, part in files.items():
        mx.save_safetensors(str(directory / file), {name: weights[name] for name in part})
    places = {name: file for file, part in files.items() for name in part}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return directory


@pytest.fixture(params=["plain", "quantized", "sharded", "quantized and sharded"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    bits = 4 if "quantized" in request.param else None
    path = write_random_model(tmp_path / "model", LARGE, bits=bits)
    return split(path) if "sharded" in request.param else path


def test_weights_are_the_sum_of_the_headers(directory: Path) -> None:
    assert load(directory).memory.weights == header_bytes(directory)


def test_a_model_that_is_too_large_is_not_read(directory: Path) -> None:
    weights = header_bytes(directory)
    refuse(directory, weights - 1, weights)


def test_a_model_that_leaves_no_room_for_a_token_is_not_read(directory: Path) -> None:
    weights = header_bytes(directory)
    refuse(directory, weights + 1000, weights)


def test_weights_of_an_encoder_count_before_the_models_are_read(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = header_bytes(directory)
    monkeypatch.setattr(Vision, "open", lambda *_: Encoder())
    target = PluginTarget(plugin="test", core="nothing:here")
    limit = weights + Encoder.nbytes // 2
    refuse(directory, limit, weights, vision=target)
    assert load(directory, memory_limit=limit).vision is None


class Encoder:
    nbytes = 512 * MIB


def refuse(directory: Path, limit: int, weights: int, **settings: object) -> None:
    mx.clear_cache()
    base = mx.get_active_memory()
    mx.reset_peak_memory()
    before = mx.get_memory_limit()
    with pytest.raises(ModelLoadError, match="needs more than the memory limit"):
        load(directory, memory_limit=limit, **settings)
    assert mx.get_peak_memory() - base < weights / 10
    assert mx.get_memory_limit() == before


def test_a_file_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    path = write_random_model(tmp_path / "model", LARGE)
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ModelLoadError, match="Cannot load tiny"):
        load(path)


def test_mlx_keeps_to_the_limit() -> None:
    before = mx.get_memory_limit()
    try:
        in_use = mx.get_active_memory()
        load(tiny_model_dir(), memory_limit=2**31)
        assert abs(mx.get_memory_limit() - 2**31 - in_use) < 64 * MIB
    finally:
        mx.set_memory_limit(before)
