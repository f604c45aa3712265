"""A rank on a machine that ssh reaches: a real sshd, real processes, one of which is killed."""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from budmlx.engine.engine import Engine
from budmlx.errors import ModelLoadError
from tests.engine.hosts.core_process import PATIENCE, eventually
from tests.engine.test_ranks import ask_all, directory, said

pytestmark = [pytest.mark.machines, pytest.mark.timeout(600)]

HostFile = Callable[..., Path]


def agents() -> list[psutil.Process]:
    """The agents of this machine."""
    return [each for each in psutil.process_iter() if "--join" in command_of(each)]


def command_of(process: psutil.Process) -> list[str]:
    try:
        command: list[str] = process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []
    return command if "rank" in command and command[0] != "ssh" else []


def left() -> list[psutil.Process]:
    """Children of this process, but for sshd."""
    return [each for each in psutil.Process().children() if each.name() != "sshd"]


def core_of(agent: psutil.Process) -> psutil.Process:
    (core,) = agent.children()
    return core


@pytest.fixture(scope="module")
def expected() -> list[Any]:
    with Engine.load(directory("llama"), engine_host="thread", warmup="off") as engine:
        return said(ask_all(engine))


def load(hosts: Path, **settings: Any) -> Engine:
    settings = {"engine_host": "process", "watchdog_seconds": 6.0, **settings}
    return Engine.load(directory("llama"), machines=hosts, warmup="off", **settings)


@pytest.mark.usefixtures("over_ssh")
def test_requests_are_answered_as_on_one_machine_whatever_is_killed(
    hostfile: HostFile, expected: list[Any]
) -> None:
    with load(hostfile()) as engine:
        assert said(ask_all(engine)) == expected
        (agent,) = agents()

        def kill_core() -> None:
            core_of(agent).kill()

        def kill_agent() -> None:
            agent.kill()

        def stop_agent_and_core() -> None:
            (found,) = agents()
            core_of(found).suspend()
            found.suspend()

        faults = (kill_core, kill_agent, stop_agent_and_core)
        for count, fault in enumerate(faults, 1):
            with ThreadPoolExecutor(1) as thread:
                replies = thread.submit(ask_all, engine)
                eventually(lambda: engine.status().running > 0)
                fault()
                eventually(lambda: "rank 1 (second) of 2" in engine.status().reason)
                assert said(replies.result(PATIENCE)) == expected
            assert engine.status().restarts == count
        for stopped in agents():
            stopped.send_signal(signal.SIGCONT)
    eventually(lambda: not agents())
    assert left() == []


@pytest.mark.usefixtures("over_ssh")
def test_why_a_machine_cannot_be_reached_is_said(hostfile: HostFile, tmp_path: Path) -> None:
    hosts = [
        {"ssh": "first", "ips": ["127.0.0.1"]},
        {"ssh": "second", "ips": ["127.0.0.1"], "python": str(tmp_path / "none")},
    ]
    with pytest.raises(ModelLoadError, match=r"Rank 1 could not be started on second.*none"):
        load(hostfile(hosts=hosts))
    assert left() == []
