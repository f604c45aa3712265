"""A server process with the shipped model, for clients of whatever environment."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests import server_process

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "clients"
KEY = "your-key"
"""The key that documented code has in it."""


def missing(reason: str) -> NoReturn:
    """Skip the test for want of something; fail it where `BUDMLX_REQUIRE=all`."""
    if os.environ.get("BUDMLX_REQUIRE") == "all":
        pytest.fail(reason)
    pytest.skip(reason, allow_module_level=True)


def needed(module: str) -> Any:
    """A module of a client; `missing` without it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        missing(f"{module} is not installed; make test-clients installs it")


@contextmanager
def started(**settings: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A server that takes `KEY`: its address and its process. settings: of the environment.

    BUDMLX_PYTHON: the interpreter that has budmlx, if this one has not.
    """
    python = os.environ.get("BUDMLX_PYTHON", sys.executable)
    # Documented code asks for models of many names.
    demo = [] if "BUDMLX_MODEL" in settings else ["--demo"]
    environment = {**os.environ, "BUDMLX_API_KEYS": KEY, **settings}
    options = [*demo, "--port", "0"]
    with server_process.started(*options, environment=environment, python=python, cwd=ROOT) as it:
        yield it


@contextmanager
def served() -> Iterator[str]:
    """The address of a server that takes `KEY`."""
    with started() as (url, _):
        yield url


@contextmanager
def scripted(path: Path, scripts: Mapping[str, Sequence[str]], **settings: str) -> Iterator[str]:
    """The address of a server of a model that says what scripts say; see `tests.agent_model`.

    path: of a directory for the model, which has its name. settings: of the environment.
    """
    python = os.environ.get("BUDMLX_PYTHON", sys.executable)
    command = [python, "-m", "tests.agent_model", str(path), json.dumps(scripts)]
    subprocess.run(command, cwd=ROOT, check=True)
    with started(BUDMLX_MODEL=str(path), **settings) as (url, _):
        yield url
