"""Many conversations as one batch: progress, and what becomes of the others when one fails."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from budmlx import Engine
from budmlx.errors import ContextLengthError
from tests.models import tiny_model_dir


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load(tiny_model_dir(scale=4.0)) as engine:
        yield engine


def test_progress_is_a_bar_unless_asked_otherwise(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    engine.chat_many(["a", "b"], max_tokens=2, progress=False)
    assert capsys.readouterr() == ("", "")
    engine.chat_many(["a", "b"], max_tokens=2)
    shown = capsys.readouterr()
    assert "Generating" in shown.err and "100%" in shown.err and not shown.out
    told: list[tuple[int, int]] = []
    engine.chat_many("abc", max_tokens=2, progress=lambda *counts: told.append(counts))
    assert told == [(1, 3), (2, 3), (3, 3)] and capsys.readouterr() == ("", "")
    assert engine.chat_many([]) == []


def test_the_first_that_fails_cancels_the_others(engine: Engine) -> None:
    with pytest.raises(ContextLengthError):
        engine.chat_many(["a", "b", "word " * 20_000], max_tokens=5000, progress=False)
    deadline = time.monotonic() + 5
    while engine.status().running:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_stop_strings_end_rows_while_others_run(engine: Engine) -> None:
    """A row whose text has ended leaves the core, whichever reply is looked at first."""
    whole = engine.chat("the quick brown fox", temperature=0, max_tokens=60).text
    options = {"temperature": 0, "max_tokens": 60, "stop": whole[20:24], "progress": False}
    for reply in engine.chat_many(["the quick brown fox"] * 3, **options):
        assert (reply.text, reply.finish_reason) == (whole[: whole.index(whole[20:24])], "stop")
        assert reply.usage.completion_tokens < 60
