"""What the core says of its work: signs of life, what is new, how long it may take."""

from __future__ import annotations

import tempfile

from budmlx.core.batch.executor import FIRST_USE_SECONDS, SLACK, Activity
from budmlx.core.model.memory import scale
from budmlx.protocol.channel import NOTE_BYTES, Note, NoteWriter
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
        writer.beat(2**40, 600.0)
        writer.pulse()
        writer.pulse()
        writer.computes(True)
        assert Note.read(file.fileno()) == Note(2**40, 600.0, 2, "name", computes=True)
        writer.computes(False)
        writer.plugin("")
        assert Note.read(file.fileno()) == Note(2**40, 600.0, 2)


def test_numbers_belong_together_by_powers_of_two() -> None:
    assert scale(1, 256) == scale(256, 256) == scale(511, 256)
    assert scale(512, 256) == scale(1023, 256) == scale(511, 256) + 1


def test_passes_of_a_kind_are_new_once() -> None:
    driver = Driver(load())

    def run(*lengths: int, **changes: object) -> bool:
        """Whether anything that such rows run is new."""
        first = max(driver.tokens, default=0) + 1
        results = []
        original = driver.executor.run

        def noting(plan):  # type: ignore[no-untyped-def]
            results.append(original(plan))
            return results[-1]

        driver.executor.run = noting  # type: ignore[method-assign]
        driver.submit(
            *(
                request(first + i, [5 + first + i] * length, max_tokens=3, **changes)
                for i, length in enumerate(lengths)
            )
        )
        driver.run()
        driver.executor.run = original  # type: ignore[method-assign]
        return any(result.first_use for result in results)

    assert run(20)
    assert not run(25)
    assert run(300), "a longer pass over more KV"
    assert run(20, 25), "padded"
    assert not run(21, 30)
    assert run(20, temperature=1.0, top_p=0.5)
    assert not run(20, temperature=0.5, top_p=0.9)
    assert run(20, frequency_penalty=1.0)
    assert not run(20)
