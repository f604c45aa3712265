"""What the tests of the process host share: requests, a sink, a look at the child."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil

from budmlx.engine.hosts.process import ProcessHost
from budmlx.engine.hosts.thread import ThreadHost
from budmlx.protocol import CoreSettings, DraftModelSettings, GenerateRequest, StepFrame
from budmlx.types import SamplingParams
from tests.models import tiny_model_dir

_RUN = (sys.executable, "-P", str(Path(__file__).with_name("changed_core.py")))
FATAL_COMMAND = (*_RUN, "tests.engine.hosts.fatal_core")
FAILING_DEVICE = (*_RUN, "tests.engine.hosts.failing_device_core")
FATAL_TOKEN = 13
PATIENCE = 100.0


class Rows:
    """A sink that keeps what every row got, and checks that outcomes are final."""

    def __init__(self) -> None:
        self.texts: dict[int, list[int]] = {}
        self.outcomes: dict[int, str] = {}
        self.errors: list[str] = []
        self.on_frame: Callable[[StepFrame], None] = lambda _frame: None
        self._changed = threading.Condition()

    def __call__(self, frame: StepFrame) -> None:
        with self._changed:
            for token in frame.tokens:
                self._note(token.id, token.reason)
                self.texts.setdefault(token.id, []).append(token.token)
            for failure in frame.failed:
                self._note(failure.id, failure.code)
            self._changed.notify_all()
        self.on_frame(frame)

    def _note(self, row_id: int, outcome: str | None) -> None:
        if row_id in self.outcomes:
            self.errors.append(f"row {row_id} got more after {self.outcomes[row_id]}")
        if outcome is not None:
            self.outcomes[row_id] = outcome

    def wait(self, condition: Callable[[], object]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, PATIENCE), self.outcomes

    def progress(self) -> Callable[[], bool]:
        """Tells when one more row has completed and three others have gone on."""
        done = len(self.outcomes)
        before = {row_id: len(text) for row_id, text in self.texts.items()}

        def condition() -> bool:
            moved = [n for n, text in self.texts.items() if len(text) > before.get(n, 0) + 8]
            return len(self.outcomes) > done and len(set(moved) - set(self.outcomes)) >= 3

        return condition

    def wait_for(self, *row_ids: int) -> None:
        self.wait(lambda: all(row_id in self.outcomes for row_id in row_ids))

    def wait_for_tokens(self, row_id: int, count: int = 1) -> None:
        self.wait(lambda: len(self.texts.get(row_id, ())) >= count)


def row(row_id: int, *, length: int = 40, prompt: int = 0, count: int = 3) -> GenerateRequest:
    """Even rows are greedy, odd ones are sampled."""
    return GenerateRequest(
        id=row_id,
        prompt_ids=[20 + (prompt or row_id) % 400] * count,
        sampling=SamplingParams(temperature=float(row_id % 2), top_p=0.95),
        seed=1000 + row_id,
        max_tokens=length,
        stop_ids=[],
    )


def poison(row_id: int) -> GenerateRequest:
    return GenerateRequest(
        id=row_id,
        prompt_ids=[FATAL_TOKEN],
        sampling=SamplingParams(temperature=0.0),
        seed=row_id,
        max_tokens=5,
        stop_ids=[],
    )


def core_settings() -> CoreSettings:
    # Larger matrices than the default make the greedy texts of this model vary.
    return CoreSettings(model_path=str(tiny_model_dir(scale=3.0)), model_name="tiny")


@contextmanager
def starting(rows: Rows, **changes: Any) -> Iterator[Callable[..., ProcessHost]]:
    """Makes hosts with the sink `rows`; checks that nothing of them is left behind.

    changes: of the settings of all.
    """
    this = psutil.Process()
    threads, files = threading.active_count(), this.num_fds()
    hosts: list[ProcessHost] = []

    def make(speculation: int = 0, *, drafter: bool = False, **options: Any) -> ProcessHost:
        own = msgspec.structs.replace(core_settings(), speculation=speculation, **changes)
        if drafter:
            itself = DraftModelSettings(path=own.model_path, name="itself")
            own = msgspec.structs.replace(own, draft_model=itself)
        hosts.append(ProcessHost(own, rows, **options))
        return hosts[-1]

    yield make
    for host in hosts:
        host.close()
    assert rows.errors == []
    assert this.children() == []
    eventually(lambda: threading.active_count() <= threads)
    assert this.num_fds() <= files


def core_process(parent: int | None = None) -> psutil.Process:
    """The one core that `parent`, or this process, runs now."""
    found: list[psutil.Process] = []

    def look() -> bool:
        found[:] = [child for child in psutil.Process(parent).children() if _lives(child)]
        return len(found) == 1

    eventually(look)
    return found[0]


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it ended while we looked
        return False


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def gone(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def undisturbed(requests: list[GenerateRequest]) -> dict[int, list[int]]:
    """What the rows say in a core that nothing happens to: a thread of this process."""
    rows = Rows()
    host = ThreadHost(core_settings(), rows)
    try:
        for request in requests:
            host.submit(request)
        rows.wait_for(*(request.id for request in requests))
    finally:
        host.close()
    return rows.texts
