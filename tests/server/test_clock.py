"""A clock that is set by weeks, forward or back, while a server runs: nothing is lost for it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from budmlx.clock import Clock
from budmlx.server.batches import runner
from tests.server.conftest import Start
from tests.server.test_batches import begun, ended, jsonl, line, sdk
from tests.server.tools import until

WEEKS = 40 * 86_400.0


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the clock of this process is ahead; a test changes it."""
    ahead, real = [0.0], time.time
    monkeypatch.setattr(time, "time", lambda: real() + ahead[0])
    return ahead


def test_what_has_passed_for_sure(step: list[float]) -> None:
    clock = Clock()
    before = clock.passed()
    assert before == pytest.approx(time.time(), abs=5)
    step[0] = WEEKS
    assert before <= clock.passed() < before + 60 < clock.now()
    step[0] = -WEEKS
    assert clock.passed() < before <= clock.now() < before + 60


@pytest.mark.parametrize("ahead", [WEEKS, -WEEKS])
async def test_nothing_ends_before_its_time(
    start: Start,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: list[float],
    ahead: float,
) -> None:  # LIMITS 135
    monkeypatch.setattr(runner, "SWEEP_SECONDS", 0.01)
    server = await start(
        store=str(tmp_path / "store"),
        files_dir=str(tmp_path / "files"),
        batch_lines=1,
        requests_per_minute=1000,
    )
    client = sdk(server)
    day = {"anchor": "created_at", "seconds": 86_400}
    file = await client.files.create(
        file=("x", b"abc"),
        purpose="user_data",
        expires_after={**day},  # type: ignore[typeddict-item]
    )
    reply = await client.responses.create(model="demo", input="Hello", max_output_tokens=3)
    old = await ended(client, await begun(client, jsonl([line(0)])))
    lines = [line(number, ignore_eos=True, max_tokens=60) for number in range(1, 9)]
    batch = await begun(client, jsonl(lines))
    while batch.request_counts.completed < 1:
        batch = await client.batches.retrieve(batch.id)
    step[0] = ahead
    batch = await ended(client, batch)
    assert (batch.status, batch.request_counts.completed) == ("completed", 8)
    again = await ended(client, await begun(client, jsonl([line(0)])))
    assert again.status == "completed"
    assert (await client.files.content(file.id)).content == b"abc"
    assert (await client.batches.retrieve(old.id)).output_file_id == old.output_file_id
    assert old.output_file_id is not None
    assert (await client.files.content(old.output_file_id)).content
    further = await client.responses.create(
        model="demo", input="More", previous_response_id=reply.id, max_output_tokens=3
    )
    assert (await client.responses.retrieve(reply.id)).output == reply.output
    step[0] = 0.0
    assert (await client.responses.retrieve(further.id)).id == further.id
    await until(lambda: server.in_flight.count == 0)
