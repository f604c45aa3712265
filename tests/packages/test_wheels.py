"""Wheels of budmlx and its plugins, installed into an environment that has nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import urllib.request
import venv
import zipfile
from pathlib import Path

import pytest

from budmlx import __version__
from tests.docs.pages import ROOT
from tests.server_process import started

pytestmark = [pytest.mark.packages, pytest.mark.timeout(900)]
DIST = ROOT / "dist"
PLUGINS = sorted(path.parent.name for path in (ROOT / "plugins").glob("*/pyproject.toml"))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory far from the source, with the environment `installed`."""
    wheels = sorted(DIST.glob("*.whl"))
    assert len(wheels) == len(PLUGINS) + 1, f"{DIST} has {wheels}: run `make dist`"
    directory = tmp_path_factory.mktemp("wheels")
    venv.create(directory / "installed", with_pip=True)
    extra = "cpu,tls" if sys.platform == "linux" else "tls"
    pip = ("python", "-m", "pip", "install", "--quiet", "--find-links", str(DIST))
    run(directory, *pip, f"budmlx[{extra}]=={__version__}", *PLUGINS)
    return directory


def environment(directory: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BUDMLX_")}
    kept.pop("PYTHONPATH", None)
    return {**kept, "HOME": str(directory), "HF_HUB_OFFLINE": "1", "BUDMLX_DEVICE": "cpu"}


def run(directory: Path, program: str, *arguments: str) -> str:
    command = [str(directory / "installed/bin" / program), *arguments]
    done = subprocess.run(
        command, cwd=directory, env=environment(directory), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_the_wheel_that_is_installed(directory: Path) -> None:
    shown = "import budmlx; print(budmlx.__file__, budmlx.__version__)"
    path, version = run(directory, "python", "-c", shown).split()
    assert Path(path).is_relative_to(directory / "installed")
    assert run(directory, "budmlx", "--version").startswith(f"budmlx {version} ")
    run(directory, "python", "-m", "pip", "check")


def test_all_plugins_are_found(directory: Path) -> None:
    listed = run(directory, "budmlx", "plugins")
    for name in PLUGINS:
        if name != "budai":
            assert name.removeprefix("budmlx-") in listed, listed
    run(directory, "python", "-c", "import budai")


def test_it_chats_and_serves(directory: Path) -> None:
    assert run(directory, "budmlx", "generate", "Hello!", "--max-tokens", "4").strip()
    python = str(directory / "installed/bin/python")
    options = ("--demo", "--port", "0")
    with started(*options, environment=environment(directory), python=python, cwd=directory) as (
        url,
        _,
    ):
        body = {"messages": [{"role": "user", "content": "What is 2 + 3?"}], "max_tokens": 20}
        request = urllib.request.Request(
            f"{url}/v1/chat/completions",
            json.dumps({"model": "demo", **body}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as response:
            reply = json.load(response)
        assert reply["choices"][0]["message"]["content"]
        for path in ("docs", "page/main.js", "page/base.css"):
            with urllib.request.urlopen(f"{url}/{path}") as response:
                assert response.status == 200


def test_the_archives_hold_what_belongs_to_them() -> None:
    (wheel,) = DIST.glob("budmlx-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"budmlx"}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    for path in DIST.glob("*.tar.gz"):
        with tarfile.open(path) as archive:
            inside = {name.partition("/")[2] for name in archive.getnames()}
        assert {"README.md", "pyproject.toml"} <= inside, path
        assert not any(name.startswith(("plugins/", "bench/")) for name in inside), path
