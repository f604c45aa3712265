"""Ranks in real processes, one of which ends or hangs: all begin anew, and rows resume."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterator

import msgspec
import psutil
import pytest

from budmlx.engine.hosts.ports import PORTS
from budmlx.engine.hosts.process import ProcessHost
from budmlx.engine.hosts.ranks import choose_place
from budmlx.errors import ModelLoadError
from budmlx.protocol import Place
from tests.amount import usually
from tests.core.architectures import ARCHITECTURES
from tests.engine.hosts.core_process import (
    Rows,
    core_settings,
    eventually,
    row,
    starting,
    undisturbed,
)
from tests.models import tiny_model_dir

pytestmark = pytest.mark.timeout(600)  # many processes are started; a busy machine takes long


@pytest.fixture
def rows() -> Rows:
    return Rows()


@pytest.fixture
def start(rows: Rows) -> Iterator[Callable[..., ProcessHost]]:
    """Makes hosts of two ranks."""
    with starting(rows, ranks=2, warmup=False) as make:
        yield make


def ranks() -> list[psutil.Process]:
    """The processes of both ranks, rank 0 first."""
    found: list[psutil.Process] = []

    def look() -> bool:
        children = psutil.Process().children()
        found[:] = sorted(children, key=lambda each: each.create_time())
        return len(found) == 2

    eventually(look)
    return found


@pytest.mark.parametrize(
    ("kills", "requests"), usually(lambda case: case[0] == 2, [(2, 5), (20, 8)])
)
def test_rows_resume_when_a_rank_is_killed(
    kills: int, requests: int, start: Callable[..., ProcessHost], rows: Rows
) -> None:
    """Rank 1 and rank 0 in turn, under eight streams."""
    asked = [row(n, length=60 + 10 * (n % 5)) for n in range(1, requests * kills + 1)]
    expected = undisturbed(asked)
    host = start()
    for kill in range(kills):
        for request in asked[requests * kill : requests * (kill + 1)]:
            host.submit(request)
        rows.wait(rows.progress())
        rank = (kill + 1) % 2
        old = ranks()
        old[rank].kill()
        eventually(lambda: not host.status().ready)
        assert f"rank {rank} of 2 was lost" in host.status().reason
        eventually(lambda count=kill + 1: host.status().restarts == count)
        eventually(lambda old=old: not any(each.is_running() for each in old))
    rows.wait_for(*range(1, len(asked) + 1))
    assert set(rows.outcomes.values()) == {"length"}
    assert rows.texts == expected
    assert host.status().restarts == kills


@pytest.mark.long
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_hangs_is_replaced(
    rank: int, start: Callable[..., ProcessHost], rows: Rows
) -> None:
    asked = [row(1, length=120), row(2, length=120)]
    expected = undisturbed(asked)
    host = start(watchdog_seconds=3.0)
    for request in asked:
        host.submit(request)
    rows.wait_for_tokens(2)
    ranks()[rank].suspend()
    eventually(lambda: f"rank {rank} of 2 is stopped" in host.status().reason)
    rows.wait_for(1, 2)
    assert host.status().restarts == 1
    assert rows.texts == expected


def test_a_rank_that_is_stopped_while_nothing_runs_is_named_and_replaced(
    start: Callable[..., ProcessHost], rows: Rows
) -> None:
    host = start(watchdog_seconds=6.0)
    old = ranks()[1]
    old.suspend()
    eventually(lambda: "The engine waits: rank 1 of 2 is stopped" in host.status().reason)
    eventually(lambda: host.status().restarts == 1 and host.status().ready)
    assert not old.is_running()
    host.submit(row(1))
    rows.wait_for(1)


@pytest.mark.long
def test_an_address_that_another_program_takes_is_replaced(
    start: Callable[..., ProcessHost], monkeypatch: pytest.MonkeyPatch
) -> None:
    places = []
    taken = socket.create_server(("127.0.0.1", 0))

    def choose(size: int) -> Place:
        place = choose_place(size)
        places.append(place)
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        if len(places) == 1:
            return msgspec.structs.replace(place, ring=[place.ring[0], address])
        return msgspec.structs.replace(place, control=address) if len(places) == 2 else place

    monkeypatch.setattr("budmlx.engine.hosts.ranks.choose_place", choose)
    with taken:
        assert start().status().ready
    assert len(places) == 3


@pytest.mark.long
def test_why_ranks_do_not_come_together_again_is_said(
    start: Callable[..., ProcessHost], monkeypatch: pytest.MonkeyPatch
) -> None:
    host = start()

    def choose(size: int) -> Place:
        place = choose_place(size)
        return msgspec.structs.replace(place, ring=[place.ring[0], "no-such-host.invalid:1"])

    monkeypatch.setattr("budmlx.engine.hosts.ranks.choose_place", choose)
    ranks()[1].kill()
    eventually(lambda: "cannot be connected to the others" in host.status().reason)
    monkeypatch.undo()
    eventually(lambda: host.status().ready)


@pytest.mark.long
def test_close_ends_a_stopped_rank(start: Callable[..., ProcessHost], rows: Rows) -> None:
    host = start()
    ranks()[1].send_signal(signal.SIGSTOP)
    host.submit(row(1))
    host.close()
    assert psutil.Process().children() == []


@pytest.mark.long
def test_ranks_that_have_nothing_to_do_cost_nothing(
    start: Callable[..., ProcessHost], rows: Rows
) -> None:
    host = start()
    host.submit(row(1))
    rows.wait_for(1)
    time.sleep(2)  # the work itself is over
    both = ranks()
    before = [used(each) for each in both]
    time.sleep(10)
    assert all(used(each) - begin <= 0.2 for each, begin in zip(both, before, strict=True))


def used(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def test_a_rank_that_cannot_load_is_no_hang(
    start: Callable[..., ProcessHost], rows: Rows, tmp_path: object
) -> None:
    settings = msgspec.structs.replace(core_settings(), ranks=2, model_path=str(tmp_path))
    with pytest.raises(ModelLoadError, match="Cannot load tiny"):
        ProcessHost(settings, rows)
    assert psutil.Process().children() == []


@pytest.mark.parametrize(
    ("name", "ranks", "says"),
    usually(
        lambda case: case[0] == "gemma2",
        [("gemma2", 2, "gemma2"), ("llama", 3, "num_attention_heads is 4")],
    ),
)
def test_what_cannot_be_divided_is_refused_at_start(
    name: str, ranks: int, says: str, start: Callable[..., ProcessHost], rows: Rows
) -> None:
    path = str(tiny_model_dir(ARCHITECTURES[name]))
    settings = msgspec.structs.replace(core_settings(), ranks=ranks, model_path=path)
    with pytest.raises(ModelLoadError, match=f"split over {ranks} ranks.*{says}"):
        ProcessHost(settings, rows)
    assert psutil.Process().children() == []


def test_ports_are_those_that_no_outgoing_connection_gets() -> None:
    place = choose_place(3)
    addresses = [place.control, *place.ring]
    assert len(set(addresses)) == 4 and place.size == 3
    assert all(int(each.rpartition(":")[2]) in PORTS for each in addresses)
    assert place.secret != choose_place(3).secret and len(place.secret) == 64
