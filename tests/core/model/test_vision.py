"""Pictures in the core: encoded once each, whole or in chunks, and told apart."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from budmlx.core.model.loading import load_model
from budmlx.core.model.model import Model
from budmlx.core.model.vision import Vision
from budmlx.core.reuse.blocks import BlockReuse
from budmlx.errors import ModelLoadError
from budmlx.protocol import CoreSettings, Image, PluginTarget, Tensor, with_image_keys
from tests.core.driver import Driver, request
from tests.models import tiny_model_dir
from tests.vision_plugin import write_vision_model

LOADER = PluginTarget(plugin="quarters", core="tests.vision_plugin_core:classes")
ENCODER = PluginTarget(plugin="quarters", core="tests.vision_plugin_core:load")
PLACEHOLDER = 7


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vision_model(tmp_path_factory.mktemp("models") / "m")


@pytest.fixture
def model(path: Path) -> Model:
    settings = CoreSettings(model_path=str(path), model_name="m", loader=LOADER, vision=ENCODER)
    return load_model(settings)


def image(start: int, seed: int, tokens: int = 4) -> Image:
    colours = np.random.default_rng(seed).random((tokens, 3), np.float32)
    data = colours.tobytes()
    key = hashlib.sha256(data).hexdigest()
    tensor = Tensor("float32", list(colours.shape), data)
    return Image(plugin="quarters", start=start, tokens=tokens, key=key, arrays={"colours": tensor})


def showing(row_id: int, *seeds: int, **changes: Any) -> Any:
    """A prompt that shows pictures, each after some words."""
    ids, images = [5, 6], []
    for seed in seeds:
        images.append(image(len(ids), seed))
        ids += [PLACEHOLDER] * 4 + [20 + row_id % 3, 9, 11]
    return request(row_id, ids, images=images, max_tokens=6, **changes)


def run(model: Model, *requests: Any, chunk: int = 64, reuse: BlockReuse | None = None) -> Driver:
    driver = Driver(model, prefill_chunk=chunk, reuse=reuse)
    driver.submit(*requests)
    driver.run()
    return driver


def test_a_picture_is_encoded_once(model: Model) -> None:
    assert model.vision is not None
    first = run(model, showing(0, 1, 2), showing(3, 1), showing(6, 2), showing(9, 1, 2))
    assert model.vision.encoded == 2
    assert first.tokens[0] == first.tokens[9] and not first.failed
    alone = {
        n: run(model, item).tokens[n] for n, item in ((0, showing(0, 1, 2)), (3, showing(3, 1)))
    }
    assert {n: first.tokens[n] for n in alone} == alone
    assert model.vision.encoded == 2


@pytest.mark.parametrize("chunk", [1, 3, 5])
def test_chunks_cut_pictures_anywhere(model: Model, chunk: int) -> None:
    # A pass takes what is left of a short prompt whole, so this one is long.
    words = [30 + n % 50 for n in range(100)]
    item = request(0, [*words, *[PLACEHOLDER] * 4, *words], images=[image(100, 1)], max_tokens=6)
    other = request(1, [*words, *[PLACEHOLDER] * 4, *words], images=[image(100, 2)], max_tokens=6)
    whole = run(model, item, chunk=512).tokens[0]
    assert run(model, item, chunk=chunk).tokens[0] == whole
    assert run(model, other, chunk=512).tokens[1] != whole


def test_what_is_kept_is_bounded(path: Path, model: Model) -> None:
    vision = Vision.open(ENCODER, path, model.module)
    one = 4 * 64 * 4
    vision._kept.limit = 2 * one
    for seed in (1, 2, 1, 3, 1, 2):
        assert vision.embed(model.module, [PLACEHOLDER] * 4, [image(0, seed)], 0) is not None
        assert vision._kept.cost == sum(kept.nbytes for kept in vision._kept.values()) <= 2 * one
    assert vision.encoded == 4  # the second one had to go for the third, and came again
    assert vision.embed(model.module, [1, 2, 3], [image(5, 1)], 0) is None


def test_kv_is_found_for_the_same_pictures_only(model: Model) -> None:
    reuse = BlockReuse(model, 2**28, block=4, least=1)
    driver = run(model, showing(0, 1, 2), reuse=reuse)
    cached = []
    for row_id, seeds in ((3, (1, 2)), (6, (1, 3)), (9, (4, 2))):
        before = len(driver.frames)
        driver.submit(showing(row_id, *seeds))
        driver.run()
        frames = driver.frames[before:]
        cached.append(sum(token.cached for frame in frames for token in frame.tokens))
        fresh = run(model, showing(row_id, *seeds)).tokens[row_id]
        assert driver.tokens[row_id] == fresh
    assert cached == [15, 9, 2]


def test_keys_tell_pictures_apart() -> None:
    ids = [1, 2, *[PLACEHOLDER] * 6, 3]
    one, other = with_image_keys(ids, [image(2, 1, 6)]), with_image_keys(ids, [image(2, 2, 6)])
    assert one[:2] == other[:2] == [1, 2] and one[8:] == [3]
    assert all(key < 0 for key in one[2:8]) and not set(one[2:8]) & set(other[2:8])
    assert len(set(one[2:7])) == 5 and all(key >= -(2**63) for key in one[2:8])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"loader": PluginTarget(plugin="p", core="tests.none:classes")}, "plugin p cannot load"),
        (
            {"loader": LOADER, "vision": PluginTarget(plugin="p", core="tests.none:x")},
            "plugin p cannot",
        ),
    ],
)
def test_plugins_that_cannot_load(
    path: Path, settings: dict[str, PluginTarget], words: str
) -> None:
    with pytest.raises(ModelLoadError, match=words):
        load_model(CoreSettings(model_path=str(path), model_name="m", **settings))


def test_a_language_model_without_embeddings_is_refused(path: Path) -> None:
    plain = CoreSettings(model_path=str(tiny_model_dir(scale=4.0)), model_name="m", vision=ENCODER)
    with pytest.raises(ModelLoadError, match="takes no embeddings"):
        load_model(plain)
    mx.synchronize()
