"""A machine to reach over ssh, which is this one, and hostfiles that name it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.machines.sshd import ssh_server

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory of an `ssh` that reaches an sshd."""
    with ssh_server(tmp_path_factory.mktemp("sshd")) as programs:
        yield programs


@pytest.fixture
def hostfile(tmp_path: Path) -> Callable[..., Path]:
    """Writes hostfiles of two machines, the second of which ssh calls by the name that is given."""

    def write(ssh: str = "second", **more: Any) -> Path:
        path = tmp_path / "hosts.json"
        hosts = [{"ssh": "first", "ips": ["127.0.0.1"]}, {"ssh": ssh, "ips": ["127.0.0.1"]}]
        envs = [f"PYTHONPATH={ROOT}", "BUDMLX_DEVICE=cpu"]
        path.write_text(json.dumps({"hosts": hosts, "envs": envs, **more}))
        return path

    return write


@pytest.fixture
def over_ssh(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of this process find that `ssh`."""
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
