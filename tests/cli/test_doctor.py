"""`budmlx doctor` on a machine that is well, and on broken ones."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import typer

from budmlx.cli.doctor import command, machine, software
from budmlx.cli.doctor.finding import Finding
from budmlx.config import Config
from budmlx.engine.load.library.library import Library
from budmlx.plugins.manager import Plugins
from tests.model_folders import folder, model_files
from tests.plugins.packages import Site

NOWHERE = "http://127.0.0.1:9"


def doctor(
    tmp_path: Path, *arguments: str, before: str = "", **environment: str
) -> tuple[int, list[dict[str, Any]]]:
    """The exit code and the findings. before: shell commands."""
    command = f'{before} exec "$0" -P -m budmlx doctor --json "$@"'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, *arguments],
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
            "BUDMLX_DEVICE": "cpu",
            "HF_ENDPOINT": NOWHERE,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            **environment,
        },
        capture_output=True,
        text=True,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def about(findings: list[dict[str, Any]], subject: str) -> dict[str, Any]:
    [found] = [finding for finding in findings if finding["subject"] == subject]
    return found


def test_a_machine_that_is_well(tmp_path: Path) -> None:
    folder(tmp_path / "models" / "org" / "good", model_files())
    code, found = doctor(tmp_path, BUDMLX_MODELS_DIR=str(tmp_path / "models"), BUDMLX_PORT="0")
    assert code == 0
    states = {finding["subject"]: finding["state"] for finding in found}
    assert states.pop("Disk") in ("good", "note")  # whatever this machine has left
    assert states == {
        "Python": "good",
        "System": "good",
        "Device": "note",
        "Memory": "good",
        "Open files": "good",
        "Hub": "note",
        "Configuration": "good",
        "Port": "good",
        "Plugins": "good",
        "Models": "good",
    }
    assert NOWHERE in about(found, "Hub")["text"]
    assert "1 can be served" in about(found, "Models")["text"]
    assert all(finding["advice"] for finding in found if finding["state"] != "good")


def test_a_broken_one(tmp_path: Path) -> None:
    broken = tmp_path / "config.toml"
    broken.write_text("port = 'many'")
    code, found = doctor(
        tmp_path, "--config", str(broken), before="ulimit -n 256;", BUDMLX_DEVICE="tpu"
    )
    assert code == 1
    assert {finding["subject"] for finding in found if finding["state"] == "fault"} == {
        "MLX",
        "Configuration",
    }
    assert "BUDMLX_DEVICE" in about(found, "MLX")["text"]
    files = about(found, "Open files")
    assert files["state"] == "note" and "256" in files["text"]
    assert "port" in about(found, "Configuration")["text"]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.syspath_prepend(str(tmp_path))
    return Site(tmp_path)


@pytest.fixture
def listener() -> Iterator[int]:
    """The port of a program that says nothing to anybody."""

    def hang_up() -> None:
        with suppress(OSError):
            while True:
                server.accept()[0].close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=hang_up, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def test_a_port_that_another_program_has(listener: int) -> None:
    found = software.port(Config(port=listener))
    assert found.state == "fault" and str(listener) in found.text


def test_a_model_that_cannot_be_served(tmp_path: Path) -> None:
    folder(tmp_path / "gguf", {"x.gguf": b"GGUF"})
    config = Config(models_dir=(str(tmp_path),))
    [found, none] = software.models(Library.of(config, Plugins.load(config)))
    assert (found.state, none.state) == ("note", "note")
    assert "gguf" in found.text and "GGUF" in found.text


def test_a_plugin_that_is_left_out(site: Site) -> None:
    site.install("pear", "import nothing_like_it")
    faults = [each for each in software.plugins(Plugins.load(Config())) if each.state == "fault"]
    assert ["pear" in each.text and "nothing_like_it" in each.text for each in faults] == [True]


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("panic(cpu 1): completeMemory() prepare count underflow @IOGPUMemory.cpp:550", "note"),
        ("panic(cpu 0): watchdog timeout: no checkins from watchdogd in 90 seconds", "good"),
    ],
)
def test_the_newest_panic(tmp_path: Path, text: str, state: str) -> None:
    (tmp_path / "panic-full-2026-11-01.panic").write_text(text)
    [found] = machine.panic(tmp_path)
    assert found.state == state and "panic-full-2026-11-01.panic" in found.text
    assert list(machine.panic(tmp_path / "nowhere")) == []


def test_a_check_that_fails_is_a_finding(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing() -> Finding:
        raise OSError("no such disk")

    monkeypatch.setattr(
        command, "checks", lambda _: [("Disk", failing), ("System", machine.system)]
    )
    with pytest.raises(typer.Exit):
        command.doctor(as_json=False, config=None)
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("FAULT Disk: it cannot be looked at") and "no such disk" in first
    assert any(line.startswith("ok    System") for line in rest)
