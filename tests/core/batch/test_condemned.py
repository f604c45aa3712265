"""A fault of the device: nothing in flight is trusted, whoever the error was raised at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from budmlx.core.batch.group import Group
from budmlx.core.batch.plan import Result
from budmlx.core.batch.prefill import Prompt
from budmlx.core.model.device_faults import DeviceLostError
from budmlx.core.model.model import Model
from budmlx.core.reuse.blocks import BlockReuse
from budmlx.core.reuse.checkpoints import CheckpointReuse
from budmlx.core.reuse.disk.files import SUFFIX
from budmlx.core.reuse.interface import Reusing
from budmlx.protocol import KVStoreSettings, PluginCall
from tests.amount import usually
from tests.core import plugin_samples
from tests.core.driver import Driver, request
from tests.core.reuse.test_blocks import cold, plain, words
from tests.core.schedule.test_scheduler import Faulty

HANG = "[METAL] Command buffer execution failed: Caused GPU Hang Error."
ROWS = [
    request(0, words(0, 600), max_tokens=30),
    request(1, words(1, 20), max_tokens=12),
    request(2, words(2, 25), max_tokens=40, temperature=1.0, repetition_penalty=1.2),
]
LATE = request(3, words(3, 30))
Point = Callable[["Scene"], None]


@cache
def undisturbed(name: str) -> dict[int, list[int]]:
    """The tokens of `ROWS` and `LATE`."""
    return cold(plain(name), *ROWS, LATE)


def apart(model: Model) -> Model:
    """The model with KV so dear that rows of different length do not share a group."""
    layers = tuple(replace(layer, per_token=2**16) for layer in model.memory.layers)
    return replace(model, memory=replace(model.memory, weights=2**20, layers=layers))


def reuse_of(model: Model) -> Reusing:
    if model.info.needs_checkpoints:
        return CheckpointReuse(2**24)
    return BlockReuse(model, 2**24, block=8, least=1)


class Scene(Driver):
    """Two groups that decode, and places where the device fails once."""

    def __init__(self, model: Model, patch: pytest.MonkeyPatch, text: str = HANG):
        self.reuse = reuse_of(model)
        super().__init__(apart(model), reuse=self.reuse)
        self.patch, self.text = patch, text
        self.raised = False
        self.submit(*ROWS)
        while len(self.executor.groups) < 2 or not all(self.tokens.values()):
            self.turn()
        assert self.stored

    @property
    def stored(self) -> int:
        """Bytes that are stored for reuse."""
        return self.reuse.tree.nbytes if isinstance(self.reuse, BlockReuse) else self.kept

    @property
    def kept(self) -> int:
        assert isinstance(self.reuse, CheckpointReuse)
        return self.reuse._kept.nbytes

    def is_last(self, group: Group) -> bool:
        return group is self.executor.groups[-1]

    def garble(self) -> None:
        """What a failed device leaves in buffers that it never wrote."""
        for group in self.executor.groups if self.text == HANG else ():
            for place in ("_due", "_in_flight"):
                kept = getattr(group, place)
                zeros = [(replace(d, tokens=mx.zeros_like(d.tokens)), rows) for d, rows in kept]
                setattr(group, place, zeros)

    def fail(self) -> None:
        self.raised = True
        self.patch.undo()
        self.garble()
        raise RuntimeError(self.text)


def in_a_dispatch(scene: Scene) -> None:
    inner = Group.dispatch

    def dispatch(group: Group, expected: int, most: int) -> Any:
        return scene.fail() if scene.is_last(group) else inner(group, expected)

    scene.patch.setattr(Group, "dispatch", dispatch)


def while_tokens_are_read(scene: Scene) -> None:
    inner = Group.collect

    def collect(group: Group) -> Iterator[Any]:
        scene.garble()
        yield from inner(group)
        if scene.is_last(group):
            scene.fail()

    scene.patch.setattr(Group, "collect", collect)


def in_a_prefill(scene: Scene) -> None:
    scene.patch.setattr(Prompt, "compute", lambda *_: scene.fail())
    scene.submit(LATE)


@pytest.mark.parametrize(
    ("name", "point"),
    usually(
        lambda case: case[0] == "llama" or case[1] is in_a_dispatch,
        product(("llama", "gemma3_text"), (in_a_dispatch, while_tokens_are_read, in_a_prefill)),
    ),
)
def test_no_group_delivers_what_a_failed_device_left(
    name: str, point: Point, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = plain(name)
    want = undisturbed(name)
    scene = Scene(model, monkeypatch)
    point(scene)
    frame = scene.turn()
    assert scene.raised and (frame.tokens, frame.failed) == ([], [])
    assert scene.stored == 0 and not scene.executor.groups and not scene.executor.prompts
    scene.run()
    assert not scene.failed
    assert scene.tokens == {key: want[key] for key in scene.tokens}


def test_a_fault_while_a_row_is_kept_condemns_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    model = plain("llama")
    scene = Scene(model, monkeypatch)
    scene.patch.setattr(scene.reuse, "keep", lambda *_, **__: scene.fail())
    scene.scheduler.cancel(1)
    assert scene.raised and scene.stored == 0 and not scene.executor.groups
    scene.run()
    want = undisturbed("llama")
    assert {key: scene.tokens[key] for key in (0, 2)} == {key: want[key] for key in (0, 2)}
    assert not scene.failed


def test_memory_that_cannot_be_had_belongs_to_who_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    model = plain("llama")
    scene = Scene(model, monkeypatch, "[malloc] Unable to allocate 1073741824 bytes.")
    in_a_dispatch(scene)
    frame = scene.turn()
    assert scene.raised and frame.tokens and len(scene.executor.groups) == 1
    scene.run()
    want = undisturbed("llama")
    assert scene.tokens == {key: want[key] for key in scene.tokens} and not scene.failed


def test_a_row_that_fails_the_device_again_and_again_ends_alone() -> None:
    """Meanwhile the others go on, of all suspects one half at a time."""
    model = plain("llama")
    rows = [request(key, words(key, 9), max_tokens=20) for key in range(6)]
    want = cold(model, *rows)
    poison = next(token for token in range(300, 512) if not any(token in t for t in want.values()))
    driver = Driver(replace(model, module=Faulty(model.module, poison, text=HANG)))
    driver.submit(*rows)
    driver.turns(4)
    driver.submit(request(9, [5, poison, 6]))
    together, faults = 0, 0
    take = driver.scheduler.take

    def counted(result: Result) -> None:
        nonlocal faults
        faults += result.condemned
        take(result)

    driver.scheduler.take = counted  # type: ignore[method-assign]
    while driver.scheduler.busy:
        driver.turn()
        at_work = [row for row in driver.scheduler._at_work if row.quarantined]
        together = max(together, len(at_work))
        assert len({row.trial for row in at_work}) <= 1
    assert together == 4 and faults <= 1 + 3
    assert set(driver.failed) == {9}
    assert driver.failed[9].code == "request_failed"
    assert {key: driver.tokens[key] for key in want} == want


def test_a_row_on_trial_is_not_blamed_for_a_newcomer(monkeypatch: pytest.MonkeyPatch) -> None:
    model = plain("llama")
    rows = [request(key, words(key, 9), max_tokens=20) for key in range(2)]
    want = cold(model, *rows)
    poison = next(token for token in range(300, 512) if not any(token in t for t in want.values()))
    driver = Driver(replace(model, module=Faulty(model.module, poison, text=HANG)))
    driver.submit(*rows)
    driver.turns(4)

    def fail(*_: object) -> None:
        monkeypatch.undo()
        raise RuntimeError(HANG)

    monkeypatch.setattr(Group, "dispatch", fail)
    driver.turn()
    driver.turns(4)
    driver.submit(request(9, [5, poison, 6], owner="other"))
    driver.scheduler._claims[driver.scheduler._waiting.interactive].computed(60.0)
    driver.run()
    assert set(driver.failed) == {9}
    assert {key: driver.tokens[key] for key in want} == want


def test_a_plugin_is_not_blamed_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin_samples.Unlucky, "failed", False)
    core = "tests.core.plugin_samples:Unlucky"
    call = PluginCall(plugin="stranger", name="Unlucky", core=core)
    model = plain("llama")
    driver = Driver(model)
    driver.submit(request(1, [5, 6, 7], sampler=call), request(2, [8, 6, 7]))
    driver.run()
    assert plugin_samples.Unlucky.failed and not driver.failed
    assert driver.tokens == cold(model, request(1, [5, 6, 7]), request(2, [8, 6, 7]))


def test_a_process_that_can_be_replaced_ends_and_saves_nothing(tmp_path: Path) -> None:
    model = plain("llama")
    kv_store = KVStoreSettings(directory=str(tmp_path), limit=2**30)
    reuse = BlockReuse(model, 2**24, block=8, kv_store=kv_store)
    poisoned = replace(model, module=Faulty(model.module, 400, text=HANG))
    driver = Driver(poisoned, reuse=reuse)
    driver.executor._replaceable = True
    driver.submit(request(1, words(1, 40), max_tokens=4), request(2, words(2, 40), max_tokens=99))
    driver.turns(9)
    assert reuse.tree.nbytes and reuse.pending
    driver.submit(request(3, [400, 5]))
    with pytest.raises(DeviceLostError):
        driver.run()
    assert reuse.tree.nbytes == 0 and not reuse.pending
    reuse.close(5.0)
    assert not list(tmp_path.rglob(f"*{SUFFIX}"))


def test_a_device_that_is_lost_for_good_is_not_tried_again() -> None:
    model = plain("llama")
    text = "[METAL] Ignored (00000004:kIOGPUCommandBufferCallbackErrorSubmissionsIgnored)"
    driver = Driver(replace(model, module=Faulty(model.module, 5, text=text)))
    driver.submit(request(1, [5, 5]))
    with pytest.raises(DeviceLostError):
        driver.run()
