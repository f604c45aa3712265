"""Rows with different adapters in one batch, against mlx-lm's layers alone."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from pathlib import Path

import mlx.nn as nn
import msgspec
import pytest
from mlx_lm.tuner.utils import load_adapters as load_with_mlx_lm

from budmlx.core.activity import Activity
from budmlx.core.adapter_changes import load_adapters
from budmlx.core.model.loading import load_model
from budmlx.core.model.model import Model
from budmlx.core.warmup import WarmUp
from budmlx.protocol import AdapterSource, CoreSettings, GenerateRequest, WarmingUp
from tests.adapters import ATTENTION, LINEAR, alone, greedy, write_mlx
from tests.amount import usually
from tests.core.architectures import ARCHITECTURES
from tests.core.driver import Driver, load, request
from tests.core.model.test_vision import ENCODER, LOADER, showing
from tests.models import tiny_model_dir
from tests.vision_plugin import write_vision_model

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


def run_alone(model: Model, module: nn.Module, row: GenerateRequest) -> list[int]:
    """The tokens of a row without an adapter, on a module that has its layers."""
    driver = Driver(replace(model, module=module), prefill_chunk=64)
    driver.submit(row)
    driver.run()
    return driver.tokens[row.id]


@pytest.mark.parametrize(("name", "bits"), usually(("llama", 4).__eq__, MODELS))
def test_seeded_rows_draw_what_they_draw_alone(name: str, bits: int | None, tmp_path: Path) -> None:
    """Choices of one prompt, too, and rows that are sent back midway."""
    path = directory(name, bits)
    paths = [None, *write_all(tmp_path, name, path)]
    model = load(path)
    digests = ["", *with_adapters(model, paths[1:])]
    # For each row its adapter and its choice; the prompts of two choices are one.
    kinds = [(0, 0), (1, 0), (2, 0), (2, 1), (3, 0)]
    params = {"temperature": 0.8, "top_p": 0.9, "max_tokens": TOKENS}
    rows = [
        request(n, range(9, 30 + kind), seed=kind, choice=choice, fork=kind, **params)
        for n, (kind, choice) in enumerate(kinds)
    ]
    want = {
        row.id: run_alone(model, alone(path, paths[kind]), row)
        for row, (kind, _) in zip(rows, kinds, strict=True)
    }
    driver = Driver(model, prefill_chunk=64)
    for row, (kind, _) in zip(rows, kinds, strict=True):
        driver.submit(msgspec.structs.replace(row, adapter=digests[kind]))
    driver.turns(8)
    driver.scheduler._requeue([driver.scheduler._rows[n] for n in (0, 3, 4)])
    driver.run()
    assert not driver.failed and driver.tokens == want
    assert driver.tokens[2] != driver.tokens[3]


def test_prompts_that_show_pictures_have_them(tmp_path: Path) -> None:
    path = write_vision_model(tmp_path / "m")
    settings = CoreSettings(model_path=str(path), model_name="m", loader=LOADER, vision=ENCODER)
    model = load_model(settings)
    # The plugin's model has llama within; mlx-lm knows its layers without that.
    own, plain = (
        write_mlx(tmp_path / f"a{prefix}", tiny_model_dir(), prefix=prefix)
        for prefix in ("inner.", "")
    )
    [digest] = with_adapters(model, [own])
    driver = Driver(model, prefill_chunk=64)
    rows = [showing(n, 1, 2) for n in range(4)]
    for row in rows:
        driver.submit(msgspec.structs.replace(row, adapter=digest if row.id % 2 else ""))
    driver.run()
    lora = load_model(settings).module
    load_with_mlx_lm(lora.inner, str(plain)).eval()
    modules = (load_model(settings).module, lora)
    want = {row.id: run_alone(model, modules[row.id % 2], row) for row in rows}
    assert driver.tokens == want and want[0] != want[1]


def test_the_warm_up_runs_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = directory("llama", None)
    model = load(path)
    with_adapters(model, write_all(tmp_path, "llama", path))
    said: list[object] = []
    activity = Activity()
    settings = CoreSettings(model_path=str(path), model_name="m", prefix_cache=0.5)
    WarmUp(model, settings, activity, thorough=True).run(said.append)
    assert [frame.done for frame in said if isinstance(frame, WarmingUp)] == list(range(10))
    assert not caplog.messages
    assert any("adapters" in kind[4] for kind in activity._known if kind[0] == "decode")
