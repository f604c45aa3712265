"""The Makefile finds a Python and a back end that fit the machine, or says what is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

MAKE = shutil.which("make")
pytestmark = pytest.mark.skipif(MAKE is None, reason="there is no make")

RULES = """
find-python: ; @$(FIND_PYTHON)
install-budmlx: ; @$(call install,dev$(comma))
"""
PYTHONS = ("python3.11", "python3.12", "python3.13", "python3.14", "python3")


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A directory in front of all others, with nothing that the machine itself has."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name in (*PYTHONS, "nvidia-smi"):
        program(folder, name, "exit 1")
    return folder


def program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def python(folder: Path, name: str, machine: str) -> None:
    """This Python, as it would be on a machine of that kind."""
    pretends = f"import platform; platform.machine = lambda: '{machine}'"
    program(folder, name, f'exec "{sys.executable}" -c "{pretends}; $2" "$3"')


def make(programs: Path, target: str, *variables: str) -> subprocess.CompletedProcess[str]:
    rules = programs / "rules.mk"
    rules.write_text(RULES)
    kept = {
        key: os.environ[key] for key in os.environ.keys() - {"PYTHON", "MLX_BACKEND", "MAKEFLAGS"}
    }
    assert MAKE is not None
    return subprocess.run(
        [MAKE, "-s", "-f", "Makefile", "-f", str(rules), target, *variables],
        cwd=ROOT,
        env={**kept, "PATH": f"{programs}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )


def system(programs: Path, name: str, macos: str = "") -> None:
    program(programs, "uname", f"echo {name}")
    program(programs, "sw_vers", f"echo {macos}")


@pytest.mark.parametrize("macos", ["14.0", "26.1.2"])
def test_a_mac_needs_an_arm64_python(programs: Path, macos: str) -> None:
    system(programs, "Darwin", macos)
    python(programs, "python3.13", "x86_64")
    refused = make(programs, "find-python")
    assert refused.returncode != 0 and refused.stdout == ""
    assert "a native arm64 Python 3.11 or newer" in refused.stderr.splitlines()[0]
    python(programs, "python3.12", "arm64")
    assert make(programs, "find-python").stdout == "python3.12\n"


def test_an_old_macos_is_named(programs: Path) -> None:
    system(programs, "Darwin", "13.6.1")
    python(programs, "python3.13", "arm64")
    done = make(programs, "find-python")
    assert done.returncode != 0 and done.stdout == ""
    assert "macOS 14 or newer" in done.stderr.splitlines()[0] and "13.6.1" in done.stderr


def test_elsewhere_any_machine_will_do(programs: Path) -> None:
    system(programs, "Linux")
    assert "needs Python 3.11 or newer;" in make(programs, "find-python").stderr
    python(programs, "python3.11", "x86_64")
    assert make(programs, "find-python").stdout == "python3.11\n"


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has an NVIDIA GPU")
@pytest.mark.parametrize(
    ("script", "backend"),
    [
        ("echo 580.65.06; echo 580.65.06", "cuda13"),
        ("echo 1010.1", "cuda13"),
        ("echo 570.86.10", "cuda"),
        ("echo NVIDIA-SMI has failed because there is no driver.; exit 9", "cpu"),
        ("exit 127", "cpu"),
    ],
)
def test_the_back_end_fits_the_machine(programs: Path, script: str, backend: str) -> None:
    program(programs, "nvidia-smi", script)
    installed = programs / "venv" / "bin"
    installed.mkdir(parents=True)
    program(installed, "python", 'echo "$@"')
    venv = f"VENV={installed.parent}"
    news, said = make(programs, "install-budmlx", venv).stdout.splitlines()
    assert f"(dev,{backend})" in news
    assert said == f"-m pip install --quiet --editable .[dev,{backend}]"
    chosen = make(programs, "install-budmlx", venv, "MLX_BACKEND=other").stdout
    assert chosen.endswith(" .[dev,other]\n")


def test_every_back_end_is_an_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
        "optional-dependencies"
    ]
    for extra, package in (("cpu", "cpu"), ("cuda", "cuda12"), ("cuda13", "cuda13")):
        (requirement,) = extras[extra]
        assert requirement.startswith(f"mlx[{package}]>=")
