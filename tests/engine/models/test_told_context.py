"""The context that is told of a model which is not loaded is the one that it has when it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from budmlx.config import Config
from budmlx.core.model.memory import UNPACKED_LAYERS
from budmlx.core.model.scores import METAL_DECODE, METAL_PREFILL
from budmlx.engine.load.library import pass_size
from budmlx.engine.models.models import Models
from tests.models import tiny_model_dir

MIB = 2**20


@pytest.mark.parametrize(
    "settings",
    [
        {"memory_budget": 40 * MIB},
        {"memory_budget": 80 * MIB},
        {"memory_budget": 40 * MIB, "prefill_chunk": 128},
    ],
    ids=str,
)
def test_what_is_told_is_what_will_be_honoured(settings: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to(tiny_model_dir(), target_is_directory=True)
    config = Config(models_dir=(str(tmp_path),), engine_host="thread", warmup="off", **settings)
    with Models(config) as models:
        told = models.find("one").longest
        with models.engine("one") as engine:
            assert engine.status().budget.longest_row < 8192
            assert models.find("one").longest == told


def test_the_numbers_are_those_of_the_core() -> None:
    assert pass_size.UNPACKED_LAYERS == UNPACKED_LAYERS
    assert (pass_size.FUSED_PREFILL, pass_size.FUSED_DECODE) == (METAL_PREFILL, METAL_DECODE)
