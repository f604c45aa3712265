"""Adapters that come and go while rows run."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue

import mlx.core as mx
import pytest

from budmlx.core import adapter_changes
from budmlx.core.adapter_changes import AdapterChanges, FilesRead, load_adapters
from budmlx.core.adapters.layers import AdapterLinear
from budmlx.core.loop import CoreLoop
from budmlx.core.model.model import Model
from budmlx.core.row import NO_ADAPTER
from budmlx.errors import ModelLoadError
from budmlx.protocol import (
    AdapterAnswer,
    AdapterSource,
    AddAdapter,
    CoreSettings,
    FromCore,
    Loaded,
    RemoveAdapter,
    Shutdown,
    StepFrame,
    Submit,
)
from budmlx.testing.tiny_random import LLAMA
from tests.adapters import alone, as_peft, greedy, write_mlx
from tests.core.driver import Driver, load, request
from tests.models import tiny_model_dir

TOKENS = 40
PROMPT = list(range(30, 42))


@pytest.fixture(scope="module")
def path() -> Path:
    return tiny_model_dir(scale=4.0)


@pytest.fixture(scope="module")
def folder(path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate("ab"):
        write_mlx(folder / name, path, seed=seed)
    return folder


class Changing(Driver):
    """A driver whose model's adapters change between its turns."""

    def __init__(self, path: Path, **settings: object):
        self.model = load(path, **settings)
        super().__init__(self.model)
        self.answers: list[AdapterAnswer] = []
        self.read: SimpleQueue[FilesRead] = SimpleQueue()
        self.changes = AdapterChanges(
            self.executor, lambda: self.scheduler.budget, self.answers.append, self.read.put
        )

    def change(self, message: AddAdapter | RemoveAdapter) -> AdapterAnswer:
        """Make a change, with a turn after each piece of it."""
        self.changes.take(message)
        if isinstance(message, AddAdapter):
            self.changes.take(self.read.get(timeout=60))
        self.pieces = 0
        while self.changes.pending:
            self.changes.work(busy=True)
            self.turn()
            self.pieces += 1
        return self.answers[-1]

    def wrapped(self) -> int:
        return len(layers_of(self.model))


def test_rows_go_on_while_adapters_change(
    path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_changes, "PAUSE", 0.0)
    a, b = (AdapterSource(str(folder / name)) for name in "ab")
    want = {name: greedy(alone(path, folder / name if name else None), PROMPT, TOKENS)
            for name in ("", "a", "b")}  # fmt: skip
    driver = Changing(path)
    driver.submit(request(0, PROMPT, max_tokens=TOKENS))
    driver.turns(2)
    first = driver.change(AddAdapter(a))
    # One layer at a time: 7 in each of 2 blocks, after a look at the model.
    assert driver.pieces > 14 == driver.wrapped()
    driver.submit(request(1, PROMPT, max_tokens=TOKENS, adapter=first.digest))
    driver.turns(3)
    second = driver.change(AddAdapter(b))
    assert first.digest != second.digest and first.nbytes == second.nbytes
    driver.submit(request(2, PROMPT, max_tokens=TOKENS, adapter=second.digest))
    driver.run()
    assert driver.tokens == {0: want[""], 1: want["a"], 2: want["b"]}
    assert driver.model.adapters.nbytes == first.nbytes + second.nbytes
    driver.submit(request(3, PROMPT, max_tokens=TOKENS, adapter=second.digest))
    driver.turns(2)
    gone = driver.change(RemoveAdapter(AdapterSource(a.path, first.digest)))
    assert gone.removed and gone.digest == first.digest
    driver.submit(request(4, PROMPT, max_tokens=TOKENS, adapter=first.digest))
    driver.run()
    assert driver.tokens[3] == want["b"]
    assert driver.failed[4].message == NO_ADAPTER and driver.failed[4].code == "model_not_found"
    driver.change(RemoveAdapter(AdapterSource(b.path, second.digest)))
    assert not driver.wrapped() and not driver.model.adapters.nbytes
    driver.submit(request(5, PROMPT, max_tokens=TOKENS))
    driver.run()
    assert driver.tokens[5] == want[""]


def test_what_cannot_be_added_leaves_rows_alone(path: Path, folder: Path, tmp_path: Path) -> None:
    driver = Changing(path)
    driver.submit(request(0, PROMPT, max_tokens=TOKENS))
    driver.turns(2)
    other = write_mlx(tmp_path / "other", tiny_model_dir({**LLAMA, "hidden_size": 32}))
    for source, words in (
        (AdapterSource(str(tmp_path)), "there is no such file"),
        (AdapterSource(str(other)), "is 32 wide, and the model's layer 64. It was made for org/"),
        (AdapterSource(str(folder / "a"), "other"), "were changed"),
    ):
        assert words in driver.change(AddAdapter(source)).problem
    assert not driver.wrapped()
    driver.run()
    assert driver.tokens[0] == greedy(alone(path, None), PROMPT, TOKENS)
    before = driver.change(AddAdapter(AdapterSource(str(folder / "a"))))
    again = driver.change(AddAdapter(AdapterSource(str(folder / "a"))))
    assert before == again and driver.model.adapters.nbytes == before.nbytes


def test_adapters_take_memory_of_rows(path: Path, folder: Path, tmp_path: Path) -> None:
    source = AdapterSource(str(folder / "a"))
    weights = load(path).memory.weights
    driver = Changing(path, memory_limit=weights + 2_200_000)
    longest = driver.scheduler._admission.longest
    answer = driver.change(AddAdapter(source))
    memory = driver.model.memory_now
    assert answer.budget.weights == memory.weights == weights + answer.nbytes
    left = driver.scheduler._admission.longest
    assert answer.budget.longest_row == left == memory.longest_row(8192, 64) < longest
    big = write_mlx(tmp_path / "big", path, rank=400)
    refused = driver.change(AddAdapter(AdapterSource(str(big))))
    assert "iB, and the memory limit leaves" in refused.problem
    assert driver.model.adapters.nbytes == answer.nbytes
    with pytest.raises(ModelLoadError, match="the memory limit leaves"):
        load_adapters(load(path, memory_limit=weights + 2_200_000), [AdapterSource(str(big))])


def test_memory_is_known_before_many_adapters_take_it(tmp_path: Path) -> None:
    """Of other types of numbers than the model's, with others of a smaller rank filled up."""
    path = tmp_path / "model"
    shutil.copytree(tiny_model_dir(), path)
    tensors = mx.load(str(path / "model.safetensors"))
    half = {name: array.astype(mx.bfloat16) for name, array in tensors.items()}
    mx.save_safetensors(str(path / "model.safetensors"), half, {"format": "mlx"})
    model, small = load(path), write_mlx(tmp_path / "small", path, rank=4)
    taken = 0

    def add(files: Path) -> None:
        nonlocal taken
        [answer] = load_adapters(model, [AdapterSource(str(files))])
        taken += answer.nbytes
        assert taken == model.adapters.nbytes == sum(layer.nbytes for layer in layers_of(model))

    sources = [as_peft(small, tmp_path / str(each), mx.bfloat16, number=each) for each in range(17)]
    for each in sources:
        add(each)
    wide = write_mlx(tmp_path / "wide", path, rank=64)
    wide = as_peft(wide, tmp_path / "half", mx.bfloat16)
    own = sum(file.stat().st_size for file in wide.iterdir())
    limit = model.memory_now.total([[256]], 64) + 2 * own
    tight = load(path, memory_limit=limit)
    load_adapters(tight, [AdapterSource(str(each)) for each in sources])
    with pytest.raises(ModelLoadError, match="and the memory limit leaves"):
        load_adapters(tight, [AdapterSource(str(wide))])
    add(wide)
    assert {layer.layout.stride for layer in layers_of(model)} == {64}
    memory, last = model.memory_now, mx.array([PROMPT[-1:]] * 64)
    assert memory.weights == model.memory.weights + taken
    cache = model.new_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    mx.eval(model(last, cache, adapters=list(model.adapters.names)[:16] * 4))
    peak = mx.get_peak_memory() - before
    bound = memory.activations(64, 1, 1) + memory.rectangle([1] * 64)
    assert bound - 64 * memory.copied < peak < bound
    add(as_peft(small, tmp_path / "other", mx.float16))


def layers_of(model: Model) -> list[AdapterLinear]:
    return [each for each in model.module.modules() if isinstance(each, AdapterLinear)]


def test_rows_without_one_compute_the_same_bits(path: Path, folder: Path) -> None:
    model, plain = load(path), load(path)
    [answer] = load_adapters(model, [AdapterSource(str(folder / "a"))])
    ids = mx.array([PROMPT] * 3)
    names = ["", answer.digest, ""]
    mixed = model(ids, model.new_cache(), adapters=names)
    want = plain(ids, plain.new_cache())
    assert mx.array_equal(mixed[0], want[0]) and mx.array_equal(mixed[2], want[2])
    assert not mx.allclose(mixed[1], want[1], atol=0.1)
    assert mx.array_equal(model(ids, model.new_cache()), want)


def test_one_that_was_lost_is_told_and_the_others_are_there(path: Path, folder: Path) -> None:
    model = load(path)
    lost = AdapterSource(str(folder / "gone"), "1" * 64)
    answers = load_adapters(model, [lost, AdapterSource(str(folder / "b"))])
    assert "there is no such file" in answers[0].problem and answers[0].digest == lost.digest
    assert not answers[1].problem and list(model.adapters.names) == [answers[1].digest]


@pytest.mark.parametrize("pause", [0.0, adapter_changes.PAUSE])
def test_no_row_waits_more_than_two_steps_for_a_change(
    path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, pause: float
) -> None:
    """The core's own loop, with rows of an adapter and of none, while another comes and goes."""
    monkeypatch.setattr(adapter_changes, "PAUSE", pause)
    a, b = (AdapterSource(str(folder / name)) for name in "ab")
    seen: list[FromCore] = []
    loop = CoreLoop(
        CoreSettings(model_path=str(path), model_name="tiny", adapters=[a], warmup=False),
        seen.append,
    )
    thread = threading.Thread(target=loop.run)
    thread.start()

    def until(condition: Callable[[], object]) -> None:
        while not condition() and thread.is_alive():
            time.sleep(0.001)

    def answers() -> list[AdapterAnswer]:
        return [each for each in list(seen) if isinstance(each, AdapterAnswer)]

    until(lambda: seen)
    assert isinstance(seen[0], Loaded)
    for row, adapter in enumerate(["", seen[0].adapters[0].digest] * 2):
        loop.post(Submit(request(row, PROMPT, max_tokens=4000, adapter=adapter)))
    until(lambda: len(seen) > 20)
    for _ in range(2):
        count = len(answers())
        loop.post(AddAdapter(b))
        until(lambda: len(answers()) > count)  # noqa: B023
        loop.post(RemoveAdapter(AdapterSource(b.path, answers()[-1].digest)))
        until(lambda: len(answers()) > count + 1)  # noqa: B023
    loop.post(Shutdown())
    thread.join()
    assert [each.problem for each in answers()] == [""] * 4
    frames = [each for each in seen if isinstance(each, StepFrame)]
    for row in range(4):
        spoke = [n for n, frame in enumerate(frames) if row in {each.id for each in frame.tokens}]
        assert len(spoke) > 20 and max(y - x for x, y in pairwise(spoke)) <= 2
    begins = [n for n, each in enumerate(seen) if isinstance(each, AdapterAnswer)]
    if not pause:
        # A step after each of the 14 layers.
        assert min(y - x for x, y in pairwise(begins)) > 14
