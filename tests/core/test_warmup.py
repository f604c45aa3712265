"""The warm-up: it runs what requests run, and leaves nothing behind but kernels."""

from __future__ import annotations

import gc
import logging
import os
import threading
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from budmlx.core.activity import Activity
from budmlx.core.kernel_cache import VARIABLE, directory, keep_kernels
from budmlx.core.loop import CoreLoop
from budmlx.core.schedule.speculation import COUNTS
from budmlx.core.warmup import IMAGE, WarmUp
from budmlx.protocol import (
    CoreSettings,
    FromCore,
    KVStoreSettings,
    Loaded,
    PluginTarget,
    Shutdown,
    WarmingUp,
)
from tests.amount import usually
from tests.core.architectures import ARCHITECTURES
from tests.core.driver import Driver, load, request
from tests.models import tiny_model_dir
from tests.vision_plugin import write_vision_model


def settings(path: Path | None = None, **changes: Any) -> CoreSettings:
    directory = str(path or tiny_model_dir(scale=4.0))
    return CoreSettings(model_path=directory, model_name="tiny", prefix_cache=0.5, **changes)


def warm_up(core: CoreSettings, **changes: Any) -> list[FromCore]:
    """What a core says until it serves."""
    said: list[FromCore] = []
    loop = CoreLoop(core, said.append, **changes)
    loop.post(Shutdown())
    thread = threading.Thread(target=loop.run)
    thread.start()
    thread.join()
    return said


@pytest.mark.parametrize(
    "name", usually({"llama", "gemma3_text", "mamba"}.__contains__, ARCHITECTURES)
)
def test_every_part_runs_on_every_architecture(name: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tiny_model_dir(ARCHITECTURES[name], scale=4.0)
    model = load(path)
    caplog.clear()  # one of them is said to run one row at a time
    said: list[FromCore] = []
    WarmUp(model, settings(path), Activity(), thorough=True).run(said.append)
    assert caplog.messages == []
    assert [frame.done for frame in said if isinstance(frame, WarmingUp)] == list(range(8))


class Seen(Activity):
    """Keeps the kinds of what runs."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds: set[Any] = set()

    def run(self, kind: Hashable) -> None:
        self.kinds.add(kind)
        super().run(kind)


@pytest.mark.parametrize(("setting", "counts"), [("auto", COUNTS), (3, [3])])
def test_steps_with_drafts_run_where_rows_draft(setting: Any, counts: Sequence[int]) -> None:
    said: list[FromCore] = []
    seen, model = Seen(), load(speculation=setting)
    WarmUp(model, settings(speculation=setting), seen, thorough=True).run(said.append)
    assert len(said) == 8 + 2 * len(counts)
    # The width of the batch is its number of bits.
    kinds = [kind for kind in seen.kinds if kind[0] == "decode" and len(kind) > 5]
    drafted = {(width, most) for _, width, _, _, _, most, _ in kinds}
    together = {1: 5, 2: 5, 3: 5, 4: 5, 8: 4, 16: 3}
    wanted = {(width, count) for count in counts for width in (1, together[count])}
    assert drafted >= wanted
    del model
    gc.collect()  # so that the memory of this one is no other test's


def test_progress_is_told_before_the_model_is_loaded() -> None:
    *progress, loaded = warm_up(settings())
    assert isinstance(loaded, Loaded)
    assert [(each.done, each.total) for each in progress] == [(0, 2), (1, 2)]  # type: ignore[union-attr]
    first, second = (each.seconds for each in progress)  # type: ignore[union-attr]
    assert first is None and second is not None and second > 0


def test_it_can_be_switched_off() -> None:
    [loaded] = warm_up(settings(warmup=False))
    assert isinstance(loaded, Loaded)


def test_it_leaves_nothing_behind(tmp_path: Path) -> None:
    store = KVStoreSettings(directory=str(tmp_path / "kv"), limit=2**30)
    assert isinstance(warm_up(settings(kv_store=store))[-1], Loaded)
    assert [path for path in tmp_path.rglob("*") if path.suffix not in ("", ".lock")] == []
    model = load()
    mx.clear_cache()
    before = mx.get_active_memory()
    WarmUp(model, settings(), Activity(), thorough=True).run(lambda frame: None)
    assert (mx.get_active_memory(), mx.get_cache_memory()) == (before, 0)


def test_rows_draw_the_same_tokens_with_and_without_it() -> None:
    rows = [request(n, [20 + n] * 30, temperature=1.0, seed=n) for n in range(1, 4)]
    said = []
    for warm in (False, True):
        model = load()
        if warm:
            WarmUp(model, settings(), Activity(), thorough=True).run(lambda frame: None)
        driver = Driver(model)
        driver.submit(*rows)
        driver.run()
        said.append(driver.tokens)
    assert said[0] == said[1]


def test_what_it_ran_is_known_to_the_core() -> None:
    activity = Activity()
    WarmUp(load(), settings(), activity).run(lambda frame: None)
    activity.begin()
    for kind in [*activity._known]:
        activity.run(kind)
    assert not activity.new
    assert {kind[:2] for kind in activity._known if isinstance(kind, tuple)} >= {
        ("prefill", 1),
        ("prefill", 2),
        ("decode", 1),
        ("decode", 2),
    }


def test_after_its_time_the_model_serves_anyway(caplog: pytest.LogCaptureFixture) -> None:
    first, loaded = warm_up(settings(), warmup_seconds=0.0)
    assert isinstance(first, WarmingUp) and isinstance(loaded, Loaded)
    assert "with 0 of 2 parts done" in caplog.text


def test_a_part_that_fails_is_told_and_the_others_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = load()
    broken = tmp_path / "model"
    broken.mkdir()
    for file in Path(model.info.path).iterdir():
        if file.name != "tokenizer.json":
            (broken / file.name).symlink_to(file)
    said: list[FromCore] = []
    with caplog.at_level(logging.WARNING):
        WarmUp(load(broken), settings(broken), Activity(), thorough=True).run(said.append)
    assert len(said) == 8
    [message] = caplog.messages
    assert "warmup cannot be used" in message and "tokenizer.json" in message


def test_pictures_are_warmed_up_without_the_encoder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_vision_model(tmp_path / "model")
    loader, encoder = (
        PluginTarget(plugin="p", core=f"tests.vision_plugin_core:{name}")
        for name in ("classes", "load")
    )
    model = load(path, loader=loader, vision=encoder)
    assert model.vision is not None
    said: list[FromCore] = []
    WarmUp(model, settings(path), Activity(), thorough=True).run(said.append)
    assert len(said) == 9
    assert caplog.messages == []
    assert model.vision.encoded == 0
    assert model.vision._kept.peek(IMAGE.key) is None


def test_kernels_are_kept_for_each_version_of_mlx(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(VARIABLE, raising=False)
    assert directory() == str(tmp_path / "budmlx" / "kernels" / mx.__version__)
    keep_kernels()
    assert os.environ.get(VARIABLE) == (directory() if mx.cuda.is_available() else None)
    monkeypatch.setenv(VARIABLE, "elsewhere")
    keep_kernels()
    assert os.environ[VARIABLE] == "elsewhere"
