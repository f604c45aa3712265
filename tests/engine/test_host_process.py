"""A real core in a real child process: load, serve, kill, stop, starve, close."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from budmlx.engine.host_process import CORE_COMMAND, ProcessHost
from budmlx.engine.recovery import RecoveryPolicy
from budmlx.errors import (
    EngineClosedError,
    EngineUnavailableError,
    ModelLoadError,
    RequestFailedError,
)
from budmlx.framing import Channel
from budmlx.protocol import (
    CoreSettings,
    FromCore,
    GenerateRequest,
    Hello,
    LoadFailed,
    StepFrame,
)
from tests.models import tiny_model_dir

ROOT = Path(__file__).parents[2]
FATAL_COMMAND = (sys.executable, "-P", str(Path(__file__).with_name("fatal_core.py")))
FATAL_TOKEN = 13
PATIENCE = 60.0


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
        temperature=float(row_id % 2),
        top_p=0.95,
        top_k=0,
        min_p=0.0,
        seed=1000 + row_id,
        max_tokens=length,
        stop_ids=[],
    )


def poison(row_id: int) -> GenerateRequest:
    return GenerateRequest(
        id=row_id,
        prompt_ids=[FATAL_TOKEN],
        temperature=0.0,
        top_p=1.0,
        top_k=0,
        min_p=0.0,
        seed=row_id,
        max_tokens=5,
        stop_ids=[],
    )


@pytest.fixture
def rows() -> Rows:
    return Rows()


@pytest.fixture
def start(rows: Rows) -> Iterator[Callable[..., ProcessHost]]:
    """Makes hosts with the sink `rows`; checks that nothing of them is left behind."""
    this = psutil.Process()
    threads, files = threading.active_count(), this.num_fds()
    hosts: list[ProcessHost] = []

    def make(**options: object) -> ProcessHost:
        hosts.append(ProcessHost(core_settings(), rows, **options))  # type: ignore[arg-type]
        return hosts[-1]

    yield make
    for host in hosts:
        host.close()
    assert rows.errors == []
    assert this.children() == []
    eventually(lambda: threading.active_count() <= threads)
    assert this.num_fds() <= files


def core_settings() -> CoreSettings:
    # Larger matrices than the default make the greedy texts of this model vary.
    return CoreSettings(model_path=str(tiny_model_dir(scale=3.0)), model_name="tiny")


def core_process(parent: int | None = None) -> psutil.Process:
    """The one core that `parent`, or this process, runs now."""
    found: list[psutil.Process] = []

    def look() -> bool:
        children = psutil.Process(parent).children()
        found[:] = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
        return len(found) == 1

    eventually(look)
    return found[0]


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
    """What the rows say in a core that nothing happens to."""
    rows = Rows()
    host = ProcessHost(core_settings(), rows)
    try:
        for request in requests:
            host.submit(request)
        rows.wait_for(*(request.id for request in requests))
    finally:
        host.close()
    return rows.texts


def test_serves_rows(start: Callable[..., ProcessHost], rows: Rows) -> None:
    host = start()
    assert host.info.vocab_size == 512
    for row_id in range(4):
        host.submit(row(row_id, length=10))
    rows.wait_for(0, 1, 2, 3)
    assert rows.outcomes == dict.fromkeys(range(4), "length")
    assert {len(text) for text in rows.texts.values()} == {10}
    eventually(lambda: host.status().running == 0)
    status = host.status()
    assert (status.ready, status.reason, status.waiting, status.restarts) == (True, "", 0, 0)
    assert status.memory > 0


def test_cancel_frees_the_row(start: Callable[..., ProcessHost], rows: Rows) -> None:
    host = start()
    host.submit(row(1, length=4000))
    host.submit(row(2, length=20))
    rows.wait_for_tokens(1)
    host.cancel(1)
    host.cancel(99)
    rows.wait_for(2)
    eventually(lambda: host.status().running == 0)
    assert 1 not in rows.outcomes


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.soak)])
def test_rows_resume_when_the_core_is_killed_under_load(
    kills: int, start: Callable[..., ProcessHost], rows: Rows
) -> None:
    # LIMITS 101, L8
    requests = [row(n, length=60 + 10 * (n % 7)) for n in range(1, 8 * kills)]
    expected = undisturbed(requests)
    assert len({tuple(text) for text in expected.values()}) == len(requests)
    host = start()
    waiting = iter(requests)
    for _ in range(kills):
        for _ in range(7):
            host.submit(next(waiting))
        rows.wait(rows.progress())
        core_process().kill()
    rows.wait_for(*range(1, 7 * kills + 1))
    assert set(rows.outcomes.values()) == {"length"}
    assert rows.texts == {n: expected[n] for n in range(1, 7 * kills + 1)}
    assert host.status().restarts == kills


def test_a_kill_at_any_moment_gives_every_row_one_outcome(
    start: Callable[..., ProcessHost], rows: Rows
) -> None:
    requests = [row(n, length=30) for n in range(1, 25)]
    expected = undisturbed(requests)
    host = start()
    for number, request in enumerate(requests):
        host.submit(request)
        if number % 6 == 5:  # also while it loads and while rows are on probation
            core_process().kill()
    rows.wait_for(*range(1, 25))
    for row_id, outcome in rows.outcomes.items():
        if outcome == "length":
            assert rows.texts[row_id] == expected[row_id]
        else:
            assert outcome in ("request_failed", "engine_unavailable")


def test_a_stopped_core_is_replaced_and_its_rows_resume(
    start: Callable[..., ProcessHost], rows: Rows
) -> None:
    # LIMITS 103, 104
    requests = [row(1, length=300), row(2, length=300)]
    expected = undisturbed(requests)
    host = start(watchdog_seconds=3.0)
    for request in requests:
        host.submit(request)
    rows.wait_for_tokens(2)
    core_process().suspend()
    rows.wait_for(1, 2)
    assert rows.texts == expected
    assert host.status().restarts == 1


def test_submit_does_not_wait_for_a_core_that_does_not_read(
    start: Callable[..., ProcessHost], rows: Rows
) -> None:
    host = start()
    core = core_process()
    core.suspend()
    for row_id in range(1, 21):  # far more than the socket holds
        host.submit(row(row_id, length=2, count=4000))
    for row_id in range(1, 20):
        host.cancel(row_id)
    core.resume()
    rows.wait_for(20)
    assert host.status().restarts == 0


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_the_core_leaves_signals_to_its_parent(
    name: str, start: Callable[..., ProcessHost], rows: Rows
) -> None:
    host = start()
    host.submit(row(1, length=200))
    rows.wait_for_tokens(1)
    core = core_process()
    core.send_signal(getattr(signal, name))
    rows.wait_for(1)
    assert core_process() == core
    assert host.status().restarts == 0


def test_a_poison_request_is_failed_and_refused(
    start: Callable[..., ProcessHost], rows: Rows
) -> None:
    # LIMITS 102, 124
    requests = [row(n, length=150) for n in range(1, 4)]
    expected = undisturbed(requests)
    host = start(command=FATAL_COMMAND)
    for request in requests:
        host.submit(request)
    rows.wait_for_tokens(3)
    host.submit(poison(50))
    rows.wait_for(1, 2, 3, 50)
    assert rows.outcomes.pop(50) == "request_failed"
    assert set(rows.outcomes.values()) == {"length"}
    assert rows.texts == expected
    with pytest.raises(RequestFailedError):
        host.submit(poison(51))
    assert host.status().restarts == 3
    assert host.status().ready


def test_the_breaker_opens_and_heals(start: Callable[..., ProcessHost], rows: Rows) -> None:
    policy = RecoveryPolicy(breaker_deaths=2, breaker_delay=0.5)
    host = start(command=FATAL_COMMAND, policy=policy)
    seen: list[object] = []

    def try_again(frame: StepFrame) -> None:
        if frame.failed:
            seen.append(host.status())
            with pytest.raises(EngineUnavailableError) as caught:
                host.submit(row(2))
            seen.append(caught.value.retry_after)

    rows.on_frame = try_again
    host.submit(poison(1))
    rows.wait_for(1)
    eventually(lambda: host.status().ready)
    status, retry_after = seen
    assert not status.ready  # type: ignore[attr-defined]
    assert "ended 2 times" in status.reason  # type: ignore[attr-defined]
    assert retry_after == 1
    host.submit(row(3))
    rows.wait_for(3)
    assert rows.outcomes == {1: "request_failed", 3: "length"}


def test_a_faulty_sink_does_not_stop_the_others(
    start: Callable[..., ProcessHost], rows: Rows
) -> None:
    def fail(frame: StepFrame) -> None:
        raise RuntimeError("sink")

    rows.on_frame = fail
    start().submit(row(1))
    rows.wait_for(1)


def test_close_fails_what_still_runs(start: Callable[..., ProcessHost], rows: Rows) -> None:
    host = start()
    host.submit(row(1, length=4000))
    rows.wait_for_tokens(1)
    host.close()
    assert rows.outcomes == {1: "engine_unavailable"}
    host.close()
    host.cancel(1)
    assert host.status().reason == "The engine is closed."
    with pytest.raises(EngineClosedError):
        host.submit(row(2))


def test_close_ends_a_stopped_core(start: Callable[..., ProcessHost], rows: Rows) -> None:
    host = start()
    host.submit(row(1, length=4000))
    core_process().suspend()
    host.close()
    assert rows.outcomes == {1: "engine_unavailable"}


def test_close_during_a_restart(start: Callable[..., ProcessHost], rows: Rows) -> None:
    host = start()
    host.submit(row(1, length=4000))
    rows.wait_for_tokens(1)
    core_process().kill()
    eventually(lambda: host.status().restarts == 1)
    assert "signal 9" in host.status().reason
    host.close()
    assert rows.outcomes == {1: "engine_unavailable"}


def test_close_from_the_sink(start: Callable[..., ProcessHost], rows: Rows) -> None:
    host = start()
    rows.on_frame = lambda _frame: host.close()
    host.submit(row(1, length=4000))
    rows.wait_for(1)
    assert rows.outcomes == {1: "engine_unavailable"}


def test_an_unusable_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"config\.json|directory"):
        ProcessHost(CoreSettings(model_path=str(tmp_path), model_name="x"), Rows())
    assert psutil.Process().children() == []


@pytest.mark.parametrize(
    ("code", "says"),
    [("raise SystemExit(3)", "status 3"), ("import os; os.abort()", "signal 6")],
)
def test_a_core_that_ends_while_it_loads_is_reported(code: str, says: str) -> None:
    with pytest.raises(ModelLoadError, match=says):
        ProcessHost(core_settings(), Rows(), command=(sys.executable, "-c", code))


def test_a_core_that_cannot_be_started_is_reported() -> None:
    with pytest.raises(ModelLoadError, match="could not be started"):
        ProcessHost(core_settings(), Rows(), command=("/nonexistent/python",))


def test_the_core_refuses_another_protocol() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        descriptor = theirs.fileno()
        core = subprocess.Popen(
            [*CORE_COMMAND, str(descriptor)],
            pass_fds=(descriptor,),
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    channel: Channel[FromCore] = Channel(ours, FromCore)
    channel.send(Hello(version=999, settings=core_settings()))
    answer = channel.receive(PATIENCE)
    assert isinstance(answer, LoadFailed)
    assert "Restart" in answer.message
    assert core.wait(PATIENCE) == 0
    channel.close()


SCRIPT = """
    import os, sys, threading
    sys.path.append({root!r})
    from budmlx.engine.host_process import ProcessHost
    from budmlx.protocol import CoreSettings, GenerateRequest

    print("imported", flush=True)
    seen = threading.Event()
    settings = CoreSettings(model_path={model!r}, model_name="tiny")
    host = ProcessHost(settings, lambda frame: frame.tokens and seen.set())
    host.submit(GenerateRequest(id=1, prompt_ids=[1], temperature=0, top_p=1, top_k=0, min_p=0,
                                seed=1, max_tokens=8000, stop_ids=[]))
    assert seen.wait(60)
"""


def script(tmp_path: Path, ending: str) -> list[str]:
    """A program that leaves a row running and then does `ending`."""
    text = textwrap.dedent(SCRIPT).format(root=str(ROOT), model=str(tiny_model_dir()))
    path = tmp_path / "program.py"
    path.write_text(text + textwrap.dedent(ending))
    return [sys.executable, str(path)]


def test_the_parent_is_free_of_mlx_and_ends_without_close(tmp_path: Path) -> None:
    # A file of the working directory must not be taken for a module by the core.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mlx.py").write_text("raise RuntimeError('not this one')")
    ending = "print(*(name for name in sys.modules if name.split('.')[0] in ('mlx', 'mlx_lm')))"
    done = subprocess.run(
        script(tmp_path, ending), cwd=elsewhere, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.stdout == "imported\n\n"
    assert done.stderr == ""
    assert done.returncode == 0


@pytest.mark.parametrize("fork", [False, True])
def test_no_core_outlives_a_killed_parent(tmp_path: Path, fork: bool) -> None:
    # LIMITS 123
    fork_line = "if os.fork() == 0: threading.Event().wait()" if fork else ""
    ending = f"{fork_line}\nprint('running', flush=True)\nthreading.Event().wait()"
    parent = subprocess.Popen(script(tmp_path, ending), stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        assert [parent.stdout.readline() for _ in range(2)] == ["imported\n", "running\n"]
        family = psutil.Process(parent.pid).children(recursive=True)
        (core,) = [process for process in family if "budmlx.core" in process.cmdline()]
        parent.kill()
        parent.wait()
        try:
            eventually(lambda: gone(core))
        finally:
            for process in family:
                if not gone(process):
                    process.kill()
