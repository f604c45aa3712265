"""On the same random weights, the embeddings and the greedy tokens of mlx-vlm and transformers.

mlx-vlm lines up the tiles of LLaVA-NeXT without cutting off padding, and takes CLIP's activation
for SigLIP in models of the type llava; these two are compared with transformers only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import LLAVA, MODELS, NEXT, ONEVISION, picture, write_llava
from mlx_vlm.convert import convert
from sides import MlxVlm, Ours, Transformers

SIZES = [(28, 28), (50, 33), (33, 120), (150, 160)]


def assert_close(ours: Any, theirs: Any) -> None:
    np.testing.assert_allclose(np.array(ours), np.array(theirs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", ["published", "mlx"])
@pytest.mark.parametrize("name", ["llava", "onevision"])
def test_mlx_vlm(name: str, layout: Any, tmp_path: Path) -> None:
    write_llava(tmp_path, MODELS[name], layout=layout)
    ours, theirs = Ours(tmp_path), MlxVlm(tmp_path)
    replies = set()
    for number, size in enumerate(SIZES):
        image = ours.prepare(picture(*size, seed=number), "auto")
        assert_close(ours.embed(image), theirs.embed(image))
        tokens = ours.greedy(image)
        assert tokens == theirs.greedy(image)
        replies.add(tuple(tokens))
    assert len(replies) > 1, "the pictures make no difference"


def test_mlx_vlm_on_tiles(tmp_path: Path) -> None:
    write_llava(tmp_path, NEXT)
    ours, theirs = Ours(tmp_path), MlxVlm(tmp_path)
    image = ours.prepare(picture(56, 56), "auto")
    tiles = theirs.projected(image)
    assert_close(ours.embed(image)[:16], tiles[0])
    # A picture of the shape of the grid has no padding: each tile is where it was cut out.
    grid = ours.embed(image)[16:].reshape(8, 9, -1)[:, :8]
    assert_close(grid, tiles[1:].reshape(2, 2, 4, 4, -1).swapaxes(1, 2).reshape(8, 8, -1))


@pytest.mark.parametrize("config", [LLAVA, ONEVISION])
def test_conversions_of_mlx_vlm(config: Any, tmp_path: Path) -> None:
    write_llava(tmp_path / "published", config)
    path = tmp_path / "converted"
    convert(str(tmp_path / "published"), str(path), quantize=True, q_group_size=32, q_bits=4)
    ours, theirs = Ours(path), MlxVlm(path)
    image = ours.prepare(picture(50, 33), "auto")
    assert_close(ours.embed(image), theirs.embed(image))
    assert ours.greedy(image) == theirs.greedy(image)


@pytest.mark.parametrize("config", [LLAVA, ONEVISION])
@pytest.mark.parametrize("tower_bits", [None, 4])
def test_mlx_vlm_quantized(config: Any, tower_bits: int | None, tmp_path: Path) -> None:
    write_llava(tmp_path, config, layout="mlx", bits=4, tower_bits=tower_bits)
    ours, theirs = Ours(tmp_path), MlxVlm(tmp_path)
    for size in SIZES[:2]:
        image = ours.prepare(picture(*size), "auto")
        assert_close(ours.embed(image), theirs.embed(image))
        assert ours.greedy(image) == theirs.greedy(image)


@pytest.mark.parametrize("layout", ["published", "new"])
@pytest.mark.parametrize("name", MODELS)
def test_transformers(name: str, layout: Any, tmp_path: Path) -> None:
    write_llava(tmp_path, MODELS[name], layout=layout)
    ours, theirs = Ours(tmp_path), Transformers(tmp_path)
    for number, size in enumerate(SIZES):
        image = ours.prepare(picture(*size, seed=number), "auto")
        assert_close(ours.embed(image), theirs.embed(image))
        assert ours.greedy(image) == theirs.greedy(image)
