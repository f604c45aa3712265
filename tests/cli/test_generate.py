"""`budmlx generate` prints what the engine says, and nothing else, on stdout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from budmlx.cli.app import app
from budmlx.cli.generate import split
from budmlx.engine.engine import Engine
from budmlx.errors import InvalidRequestError
from tests.adapters import write_mlx
from tests.hub_server import Hub
from tests.models import tiny_model_dir

OPTIONS = ["--max-tokens", "12", "--temperature", "0.9", "--seed", "5"]


@pytest.fixture(scope="module")
def model() -> str:
    return str(tiny_model_dir())


@pytest.fixture(autouse=True)
def no_user_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))


def test_reply_is_the_engines(model: str) -> None:
    with Engine.load(model) as engine:
        messages = [{"role": "system", "content": "Brief."}, {"role": "user", "content": "Hi you"}]
        expected = engine.chat(messages, max_tokens=12, temperature=0.9, seed=5).text + "\n"
    run = CliRunner()
    arguments = ["generate", model, *OPTIONS, "--system", "Brief."]
    assert run.invoke(app, [*arguments, "Hi", "you"]).stdout == expected
    assert run.invoke(app, [*arguments, "Hi you", "--no-stream"]).stdout == expected
    assert run.invoke(app, [*arguments, "-"], input="Hi you").stdout == expected


def test_the_demo_model_has_a_name(monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    """As servers have it, whatever model the environment names."""
    monkeypatch.setenv("BUDMLX_MODEL", model)
    run = CliRunner()
    options = ["--max-tokens", "8", "--temperature", "0"]
    with Engine.load() as engine:
        expected = engine.chat("Hi", max_tokens=8, temperature=0).text + "\n"
    assert run.invoke(app, ["generate", "demo", "Hi", *options]).stdout == expected
    assert run.invoke(app, ["chat", "demo", *options], input="Hi\n").stdout == expected


def test_an_adapter_of_a_directory_or_of_the_configuration(model: str, tmp_path: Path) -> None:
    own = write_mlx(tmp_path / "own", Path(model), strength=4.0)
    with Engine.load(model, adapter=[f"own={own}"]) as engine:
        sampling = {"max_tokens": 12, "temperature": 0.9, "seed": 5}
        expected = engine.chat("Hi", **sampling, adapter="own").text + "\n"
        assert expected != engine.chat("Hi", **sampling).text + "\n"
    file = tmp_path / "budmlx.toml"
    file.write_text(f'[models."{model}"]\nadapter = ["own={own}"]\n')
    run = CliRunner()
    arguments = ["generate", model, "Hi", *OPTIONS]
    assert run.invoke(app, [*arguments, "--adapter", f"own={own}"]).stdout == expected
    assert (
        run.invoke(app, [*arguments, "--adapter", "own", "--config", str(file)]).stdout == expected
    )
    chat = ["chat", model, *OPTIONS, "--adapter", f"own={own}"]
    assert run.invoke(app, chat, input="Hi\n").stdout == expected
    unknown = run.invoke(app, [*arguments, "--adapter", "other", "--config", str(file)])
    assert unknown.exit_code == 1 and "no adapter 'other'. Loaded: own." in unknown.stderr


def test_process_ends_well_and_keeps_stdout_clean(model: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "budmlx", "generate", model, "Hi", *OPTIONS],
        capture_output=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    assert b"Loaded in" in done.stderr
    assert b"Load" not in done.stdout


def test_a_hub_repository_is_downloaded_and_answers(model: str, tmp_path: Path) -> None:
    files = {file.name: file.read_bytes() for file in Path(model).iterdir()}
    with Hub({"org/tiny": {"main": files}}) as hub:
        done = subprocess.run(
            [sys.executable, "-m", "budmlx", "generate", "org/tiny", "Hi", *OPTIONS],
            env=hub.environment(tmp_path),
            capture_output=True,
            timeout=110,
        )
    local = CliRunner().invoke(app, ["generate", model, "Hi", *OPTIONS])
    assert done.returncode == 0, done.stderr
    assert done.stdout == local.stdout_bytes
    assert "Fetching org/tiny: 100%" in done.stderr.decode()


def test_a_prompt_without_quotes_gets_a_hint() -> None:
    result = CliRunner().invoke(app, ["generate", "what", "is", "this"])
    assert result.exit_code == 1
    assert "no directory 'what'" in result.stderr
    assert "Quote a prompt of several words." in result.stderr


def test_a_wrong_parameter_is_named(model: str) -> None:
    result = CliRunner().invoke(app, ["generate", model, "Hi", "--temperature", "3"])
    assert result.exit_code == 1
    assert "temperature must be between 0 and 2" in result.stderr


def test_input_that_is_not_utf8_is_refused(model: str) -> None:
    result = CliRunner().invoke(app, ["generate", model, "-"], input=b"\xff\xfe")
    assert result.exit_code == 1
    assert "not UTF-8" in result.stderr


def test_arguments_are_model_and_prompt() -> None:
    assert split(["Hi there"]) == (None, "Hi there")
    assert split(["org/model", "Hi", "there"]) == ("org/model", "Hi there")
    with pytest.raises(InvalidRequestError):
        split(["org/model", " "])
