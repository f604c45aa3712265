"""A server with the demo model, and a clean environment, for the code of the documentation."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import ADDRESS, ROOT
from tests.server_process import started


@pytest.fixture(scope="package")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables for the code: no settings of whoever runs the tests, and `budmlx` as a command."""
    home, programs = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("bin")
    command = programs / "budmlx"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m budmlx "$@"\n')
    command.chmod(0o755)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("BUD")}
    return {
        **kept,
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
    }


@pytest.fixture(scope="package")
def url(environment: dict[str, str]) -> Iterator[str]:
    with started("--port", "0", environment=environment) as (url, _):
        yield url


@pytest.fixture
def workplace(
    url: str, environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A directory of its own, in which the code of a page runs in this process."""
    for key in [key for key in os.environ if key.startswith("BUD")]:
        monkeypatch.delenv(key)
    for key in ("HOME", "XDG_CACHE_HOME", "PATH"):
        monkeypatch.setenv(key, environment[key])
    monkeypatch.setenv("BUD_BASE_URL", url)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "plugins" / "budai")
    return tmp_path


def here(text: str, url: str) -> str:
    """Code with the server's real address."""
    return text.replace(ADDRESS, url)
