"""What the core says of its work: signs of life, what is new, how long it may take."""

from __future__ import annotations

import tempfile
from collections.abc import Callable

import msgspec

from budmlx.core.activity import FIRST_USE_SECONDS, SLACK, Activity, NoteWriter
from budmlx.core.batch.executor import Executor
from budmlx.core.batch.plan import Plan, Result
from budmlx.core.model.memory import scale
from budmlx.core.model.model import Model
from budmlx.core.schedule.prefill import WHOLE
from budmlx.core.schedule.scheduler import Scheduler
from budmlx.protocol.note import NOTE_BYTES, Note
from tests.core.driver import Driver, load, request


def test_what_has_run_is_known() -> None:
    activity = Activity()
    activity.begin()
    activity.run("a")
    assert activity.new
    assert activity.end(1.0, failed=False)
    activity.begin()
    activity.run("a")
    assert not activity.new
    assert not activity.end(1.0, failed=False)
    activity.begin()
    activity.run("a")
    activity.run("b")
    assert activity.end(1.0, failed=True)
    activity.begin()
    activity.run("b")
    assert activity.end(1.0, failed=False), "what failed was not built"


def test_the_note_allows_what_is_new_and_what_took_long_before() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(bytes(NOTE_BYTES))
        file.flush()
        writer = NoteWriter(file.fileno())
        activity = Activity(writer)
        beats = [Note.read(file.fileno()).beats]

        def allowed() -> float:
            note = Note.read(file.fileno())
            beats.append(note.beats)
            return note.allowed

        activity.begin()
        assert allowed() == 0
        activity.run("a")
        assert allowed() == FIRST_USE_SECONDS
        activity.end(40.0, failed=False)
        assert allowed() == 0, "what it took to build kernels says nothing of later"
        activity.begin()
        activity.run("a")
        activity.end(2.0, failed=False)
        activity.begin()
        assert allowed() == SLACK * 2.0
        assert Note.read(file.fileno()).longest == activity.longest == 2.0
        for _ in range(10_000):
            activity.begin()
            activity.end(0.01, failed=False)
        activity.begin()
        assert allowed() < 1, "one long pass does not count for ever"
        assert beats == sorted(set(beats)), "no sign of life"


def test_the_parts_of_a_note_do_not_disturb_each_other() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(bytes(NOTE_BYTES))
        file.flush()
        writer = NoteWriter(file.fileno())
        assert Note.read(file.fileno()) == Note()
        writer.plugin("a-long-name")
        writer.plugin("name")
        writer.beat(2**40, 600.0, 3.5)
        writer.pulse()
        writer.pulse()
        writer.computes(True)
        assert Note.read(file.fileno()) == Note(2**40, 600.0, 3.5, 2, "name", computes=True)
        writer.computes(False)
        writer.plugin("")
        assert Note.read(file.fileno()) == Note(2**40, 600.0, 3.5, 2)


def test_numbers_belong_together_by_powers_of_two() -> None:
    assert scale(1, 256) == scale(256, 256) == scale(511, 256)
    assert scale(512, 256) == scale(1023, 256) == scale(511, 256) + 1


class Watched(Executor):
    """An executor that keeps its plans and results. seconds: how long it says that plans took."""

    def __init__(self, model: Model):
        super().__init__(model)
        self.plans: list[Plan] = []
        self.results: list[Result] = []
        self.seconds: Callable[[Result], float] = lambda result: result.seconds

    def run(self, plan: Plan) -> Result:
        result = super().run(plan)
        self.plans.append(plan)
        self.results.append(msgspec.structs.replace(result, seconds=self.seconds(result)))
        return self.results[-1]


def watched(chunk: int = 64) -> tuple[Driver, Watched]:
    driver, executor = Driver(model := load()), Watched(model)
    driver.scheduler = Scheduler(executor, max_rows=8, prefill_chunk=chunk)
    return driver, executor


def test_passes_of_a_kind_are_new_once() -> None:
    driver, executor = watched()

    def run(*lengths: int, **changes: object) -> bool:
        """Whether anything that such rows run is new."""
        first = max(driver.tokens, default=0) + 1
        executor.results.clear()
        for number, length in enumerate(lengths, start=first):
            driver.submit(request(number, [5 + number] * length, max_tokens=3, **changes))
        driver.run()
        return any(result.first_use for result in executor.results)

    assert run(20)
    assert not run(25)
    assert run(300), "a longer pass over more KV"
    assert run(20, 25), "padded"
    assert not run(21, 30)
    assert run(20, temperature=1.0, top_p=0.5)
    assert not run(20, temperature=0.5, top_p=0.9)
    assert run(20, frequency_penalty=1.0)
    assert not run(20)


def test_what_is_new_teaches_no_pace() -> None:
    driver, executor = watched()
    executor.seconds = lambda result: 1000.0 if result.first_use else 0.01
    driver.submit(request(1, [5] * 250, max_tokens=3))
    driver.run()
    assert any(result.first_use for result in executor.results)
    per_token = driver.scheduler._prefill_budget.per_token
    assert per_token is not None and per_token < 0.01


def test_passes_are_bounded_in_time() -> None:
    driver, executor = watched(chunk=512)
    executor.seconds = lambda result: 100.0
    driver.submit(request(1, [5] * 3000, max_tokens=2))
    driver.run()
    counts = [plan.prefill.tokens for plan in executor.plans if plan.prefill is not None]
    assert counts[0] == 512 and counts[-2] == WHOLE
