"""The command group: quick help, and failures as one line."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from budmlx import __version__
from budmlx.cli.app import COMMANDS, app

HEAVY = {"mlx", "mlx_lm", "transformers", "aiohttp", "huggingface_hub", "pydantic", "tokenizers"}


def budmlx(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "budmlx", *arguments],
        capture_output=True,
        text=True,
        timeout=110,
        env=environment or None,
    )


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_and_version_import_nothing_heavy(argument: str) -> None:
    done = budmlx(argument)
    imported = {
        line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.split("\n")
    }
    assert done.returncode == 0
    assert "typer" in imported
    assert not imported & HEAVY


def test_help_lists_the_commands() -> None:
    shown = CliRunner().invoke(app, ["--help"]).output
    for name, (_, summary) in COMMANDS.items():
        assert name in shown
        assert summary in shown


def test_version_names_what_a_bug_report_needs() -> None:
    shown = CliRunner().invoke(app, ["--version"]).output
    assert shown.startswith(f"budmlx {__version__} (mlx 0.")
    assert "mlx-lm" in shown
    assert "Python 3." in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_summaries_are_the_docstrings(name: str) -> None:
    target, summary = COMMANDS[name]
    module, _, function = target.partition(":")
    docstring = getattr(importlib.import_module(module), function).__doc__
    assert docstring.splitlines()[0] == summary
    assert summary in " ".join(CliRunner().invoke(app, [name, "--help"]).output.split())


def test_unknown_command_suggests_one() -> None:
    result = CliRunner().invoke(app, ["servee"])
    assert result.exit_code == 2
    assert "Did you mean 'serve'" in result.stderr


@pytest.fixture
def failing_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "fail", ("tests.cli.failing:fail", "Fail."))


@pytest.mark.usefixtures("failing_command")
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("own", "budmlx: The model is too large. Choose a smaller one.\n"),
        ("foreign", "budmlx: internal error: ValueError: odd. --debug shows where.\n"),
    ],
)
def test_a_failure_is_one_line(kind: str, message: str) -> None:
    result = CliRunner().invoke(app, ["fail", kind])
    assert result.exit_code == 1
    assert result.stderr == message
    assert result.stdout == ""


@pytest.mark.usefixtures("failing_command")
@pytest.mark.parametrize("where", ["before", "after", "environment"])
def test_debug_lets_the_exception_out(where: str) -> None:
    arguments = {
        "before": ["--debug", "fail", "foreign"],
        "after": ["fail", "foreign", "--debug"],
        "environment": ["fail", "foreign"],
    }[where]
    environment = {"BUDMLX_DEBUG": "1"} if where == "environment" else {}
    result = CliRunner().invoke(app, arguments, env=environment)
    assert isinstance(result.exception, ValueError)
