"""Rows with different adapters in one batch, against mlx-lm's layers alone."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

import pytest

from budmlx.core.adapter_changes import load_adapters
from budmlx.core.model.model import Model
from budmlx.protocol import AdapterSource
from tests.adapters import ATTENTION, LINEAR, alone, greedy, write_mlx
from tests.amount import usually
from tests.core.architectures import ARCHITECTURES
from tests.core.driver import Driver, load, request
from tests.models import tiny_model_dir

TOKENS = 24
# Layers that each adapter changes, and its rank; one changes few.
KINDS = ((8, None), (4, ("self_attn.q_proj", "self_attn.v_proj")), (16, None))
MODELS = [(name, bits) for name in ("llama", "qwen3", "qwen3_moe") for bits in (None, 4)]


@cache
def directory(name: str, bits: int | None) -> Path:
    return tiny_model_dir(ARCHITECTURES[name], bits=bits, scale=3.0, seed=7)


def keys_of(name: str) -> tuple[str, ...]:
    return ATTENTION if name == "qwen3_moe" else LINEAR


def write_all(folder: Path, name: str, model: Path) -> list[Path]:
    return [
        write_mlx(folder / str(n), model, rank=rank, keys=keys or keys_of(name), seed=n)
        for n, (rank, keys) in enumerate(KINDS)
    ]


def with_adapters(model: Model, paths: list[Path]) -> list[str]:
    """Their digests, once the model has them."""
    answers = load_adapters(model, [AdapterSource(str(path)) for path in paths])
    return [answer.digest for answer in answers]


@pytest.mark.parametrize(
    ("name", "bits"),
    usually({("llama", None), ("qwen3", 4), ("qwen3_moe", None)}.__contains__, MODELS),
)
def test_each_row_has_its_own(name: str, bits: int | None, tmp_path: Path) -> None:
    """Prefilled alone and together, joining and leaving midway, as mlx-lm computes them alone."""
    path = directory(name, bits)
    paths = write_all(tmp_path, name, path)
    rng = random.Random(name)
    prompts = [[rng.randrange(3, 260) for _ in range(n)] for n in (9, 2, 12, 30, 11, 10, 40, 1)]
    chosen: list[Path | None] = [None, *paths, None, *paths]
    want = {
        key: greedy(alone(path, adapter), prompt, TOKENS)
        for key, (adapter, prompt) in enumerate(zip(chosen, prompts, strict=True))
    }
    model = load(path)
    digests = dict(zip(paths, with_adapters(model, paths), strict=True))
    driver = Driver(model, prefill_chunk=64)
    for key, (adapter, prompt) in enumerate(zip(chosen, prompts, strict=True)):
        row = request(key, prompt, max_tokens=TOKENS, adapter=digests[adapter] if adapter else "")
        driver.submit(row)
        driver.turns(0 if key < 4 else 3)
        if key == 5:
            driver.submit(request(100, prompt, max_tokens=TOKENS, adapter=row.adapter))
            driver.turns(3)
            driver.scheduler.cancel(100)
    driver.run()
    assert not driver.failed
    assert len({tuple(want[key]) for key in range(4)}) == 4
    del driver.tokens[100]
    assert driver.tokens == want
