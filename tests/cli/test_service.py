"""`budmlx service`: what launchd and systemd are told."""

from __future__ import annotations

import os
import plistlib
import re
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from budmlx.cli.app import app
from budmlx.cli.service.command import manager_of
from budmlx.cli.service.job import Job, job_of
from budmlx.cli.service.launchd import LABEL
from budmlx.errors import BudmlxError
from tests.server_process import started

ODD = "a \"b\" \\ $c %d 'e' ;"
JOB = Job(
    [sys.executable, "-m", "budmlx", "serve", "--port", "9000", ODD],
    {"PATH": "/opt/x y/bin:/usr/bin", "BUDMLX_ALIAS": ODD},
    Path("/tmp"),
    20,
    (),
)


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for key in [key for key in os.environ if key.startswith("BUDMLX_") and "DEVICE" not in key]:
        monkeypatch.delenv(key)
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "SUDO_USER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def run(*args: str) -> Result:
    return CliRunner().invoke(app, ["service", *args])


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Programs of the system that write down how they are called. Returns the file."""
    folder, file = tmp_path / "bin", tmp_path / "called"
    folder.mkdir()
    for name in ("launchctl", "systemctl", "journalctl"):
        program = folder / name
        program.write_text(f'#!/bin/sh\necho "{name} $@" >> {file}\necho "state = running"\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return file


def test_the_unit_runs_exactly_this() -> None:
    text = manager_of("linux", system=False).text(JOB).decode()  # type: ignore[attr-defined]
    lines = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    command = lines["ExecStart"].replace("$$", "$").replace("%%", "%")
    words = [re.sub(r"\\(.)", r"\1", word) for word in re.findall(r'"((?:[^"\\]|\\.)*)"', command)]
    assert words == list(JOB.program)
    assert lines["ExecReload"].endswith('"-m" "budmlx" "service" "reload"')
    assert lines["TimeoutStopSec"] == "20" and lines["WantedBy"] == "default.target"
    assert 'Environment="PATH=/opt/x y/bin:/usr/bin"' in text


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_systemd_takes_the_unit(home: Path) -> None:
    unit = home / "budmlx.service"
    unit.write_bytes(manager_of("linux", system=False).text(JOB))  # type: ignore[attr-defined]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--user", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "XDG_RUNTIME_DIR": str(home)},
    )
    assert done.returncode == 0 and "budmlx.service" not in done.stderr, done.stderr


def test_the_property_list_runs_exactly_this(home: Path) -> None:
    manager = manager_of("darwin", system=False)
    assert manager.path == home / "Library" / "LaunchAgents" / f"{LABEL}.plist"
    found = plistlib.loads(manager.text(JOB))  # type: ignore[attr-defined]
    log = str(home / "Library" / "Logs" / "budmlx" / "budmlx.log")
    assert found["ProgramArguments"] == [*JOB.program, "--log-file", log]
    assert found["EnvironmentVariables"] == {**JOB.environment, "HOME": str(home)}
    assert found["KeepAlive"] == {"SuccessfulExit": False} and found["RunAtLoad"] is True
    assert found["ProcessType"] == "Interactive" and "UserName" not in found
    assert found["StandardErrorPath"] == log and found["ExitTimeOut"] == 20


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes daemons")
def test_a_daemon_runs_as_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "daemon")
    manager = manager_of("darwin", system=True)
    assert manager.path == Path(f"/Library/LaunchDaemons/{LABEL}.plist")
    found = plistlib.loads(manager.text(JOB))  # type: ignore[attr-defined]
    assert found["UserName"] == "daemon"


def test_what_a_job_takes_along(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    environment = {
        "PATH": "/usr/bin:/bin",
        "BUDMLX_PORT": "9001",
        "BUDMLX_API_KEYS": "secret",
        "HF_HOME": "/models",
        "HF_TOKEN": "secret",
        "https_proxy": "http://proxy:3128",
        "SHELL": "/bin/sh",
        "BUDMLX_DEBUG": "1",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    job, place = job_of(["--demo", "--drain-seconds", "3"], environment)
    kept = dict(job.environment)
    assert kept.pop("PATH") == f"{Path(sys.executable).parent}:/usr/bin:/bin"
    device = {key: value for key, value in kept.items() if key == "BUDMLX_DEVICE"}
    assert kept == {
        "BUDMLX_PORT": "9001",
        "HF_HOME": "/models",
        "https_proxy": "http://proxy:3128",
        **device,
    }
    assert job.left_out == ["BUDMLX_API_KEYS", "HF_TOKEN"] and job.directory == tmp_path
    assert place.url == "http://127.0.0.1:9001" and job.stop_seconds == 13


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--port", "x"], "--port"),
        (["--nonsense"], "nonsense"),
        (["--host", "0.0.0.0"], "needs an API key"),
        (["--port", "0"], "lets the server choose its port"),
    ],
)
def test_what_would_not_start_is_not_installed(
    arguments: list[str], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A key in a variable is not the service's.
    monkeypatch.setenv("BUDMLX_API_KEYS", "secret")
    with pytest.raises(BudmlxError, match=reason):
        job_of(arguments, {"PATH": "/bin"})


@pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux's")
def test_the_life_of_a_service(home: Path, called: Path) -> None:
    with started(
        "--demo",
        "--port",
        "0",
        environment={"HOME": str(home), "BUDMLX_DEVICE": "cpu", "PATH": os.environ["PATH"]},
    ) as (url, _):
        port = url.rpartition(":")[2]
        made = run("install", "--", "--demo", "--port", port)
        assert made.exit_code == 0, made.output
        unit = home / ".config" / "systemd" / "user" / "budmlx.service"
        assert unit.stat().st_mode & 0o777 == 0o600 and f'"{port}"' in unit.read_text()
        shown = run("status")
        assert "state = running" in shown.output and f"It answers at {url}. Loaded:" in shown.output
        assert run("reload").output == "Nothing is different.\n"
        assert run("logs", "--lines", "5").exit_code == 0
        assert run("restart").exit_code == 0
        assert run("uninstall").exit_code == 0 and not unit.exists()
    calls = [shlex.split(line) for line in called.read_text().splitlines()]
    assert [each[2:] for each in calls if each[0] == "systemctl"] == [
        ["daemon-reload"],
        ["enable", "budmlx.service"],
        ["restart", "budmlx.service"],
        ["--no-pager", "--lines=0", "status", "budmlx.service"],
        ["restart", "budmlx.service"],
        ["disable", "--now", "budmlx.service"],
        ["daemon-reload"],
    ]
    assert ["journalctl", "--user", "--unit=budmlx.service", "--lines=5", "--no-pager"] in calls
    for action in ("uninstall", "status"):
        result = run(action)
        assert result.exit_code == 1 and "There is no service" in result.output


def test_an_agent_of_a_mac_is_bootstrapped(called: Path, home: Path) -> None:
    manager = manager_of("darwin", system=False)
    manager.install(JOB)
    assert plistlib.loads(manager.path.read_bytes())["Label"] == LABEL
    assert manager.status() == "state = running"
    manager.restart()
    manager.uninstall()
    domain = f"gui/{os.getuid()}"
    assert called.read_text().splitlines() == [
        f"launchctl bootout {domain}/{LABEL}",
        f"launchctl bootstrap {domain} {manager.path}",
        f"launchctl print {domain}/{LABEL}",
        f"launchctl kickstart -k {domain}/{LABEL}",
        f"launchctl bootout {domain}/{LABEL}",
    ]


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["status", "--", "--demo"], "go with install"),
        (["status"], "There is no service"),
    ],
)
def test_what_is_wrong_is_said(args: list[str], reason: str) -> None:
    result = run(*args)
    assert result.exit_code == 1 and reason in result.output


def test_other_systems_have_none() -> None:
    with pytest.raises(BudmlxError, match="a Mac and Linux"):
        manager_of("win32", system=False)
