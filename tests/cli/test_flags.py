"""Options come from the fields, and secrets from nowhere near a command line."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from budmlx.cli.app import app, load
from budmlx.cli.flags import config_options, option, sampling_options
from budmlx.config import Config
from budmlx.types import PARAMETERS, SamplingParams


@pytest.fixture(autouse=True)
def no_user_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))


# A secret, which other users would see, and what only a table can hold.
NO_FLAG = {"api_keys", "admin_key", "models"}


def test_serve_has_an_option_for_every_field_but_secrets_and_tables() -> None:
    names = {parameter.name for parameter in load("serve").params}
    assert set(Config.model_fields) - NO_FLAG <= names
    assert not names & NO_FLAG


def test_help_shows_description_and_default() -> None:
    shown = " ".join(CliRunner().invoke(app, ["serve", "--help"]).output.split())
    for name, field in Config.model_fields.items():
        if name not in NO_FLAG | {"model"}:
            assert f"--{name.replace('_', '-')}" in shown
            assert str(field.description) in shown
    assert "[default: 8080]" in shown
    assert "[default: 64.0MiB]" in shown


def test_help_lists_the_parts_of_the_configuration_apart() -> None:
    shown = CliRunner().invoke(app, ["serve", "--help"]).output
    options, model, server = re.split("Settings of the model:|Settings of the server:", shown)
    assert "--print-config" in options and "--help" in options
    assert "--kv-bits" in model and "--session" in model
    assert "--port" in server and "--plugin" in server
    assert set(re.findall("--[a-z-]+", model)).isdisjoint({"--port", "--plugin", "--config"})


def test_options_reach_the_configuration() -> None:
    flags = "--alias a --alias b --port 1 --memory-limit 1GiB --strict --drain-seconds 2.5"
    arguments = ["serve", "org/model", *flags.split(), "--log-level", "debug", "--print-config"]
    result = CliRunner().invoke(app, arguments)
    printed = tomllib.loads(result.output)
    config = Config.of(**printed)
    assert config.model == "org/model"
    assert (config.alias, config.port, config.memory_limit) == (("a", "b"), 1, 2**30)
    assert (config.strict, config.drain_seconds, config.log_level) == (True, 2.5, "debug")
    assert 'model = "org/model"  # MODEL argument' in result.output
    assert "port = 1  # --port" in result.output


def test_a_flag_can_turn_off_what_a_variable_turns_on() -> None:
    run = CliRunner()
    environment = {"BUDMLX_STRICT": "true"}
    on = run.invoke(app, ["serve", "--print-config"], env=environment).output
    off = run.invoke(app, ["serve", "--print-config", "--no-strict"], env=environment).output
    assert "strict = true  # BUDMLX_STRICT" in on
    assert "strict = false  # --strict" in off


def test_sampling_parameters_that_a_flag_can_express_have_one() -> None:
    names = {parameter.name for parameter in sampling_options()}
    assert {"temperature", "top_p", "top_k", "min_p", "seed", "max_tokens", "stop"} <= names
    assert names <= {field.name for field in dataclasses.fields(SamplingParams)}


def test_a_sampling_option_says_what_the_declaration_says() -> None:
    shown = " ".join(CliRunner().invoke(app, ["generate", "--help"]).output.split())
    for parameter in sampling_options():
        assert f"--{parameter.name.replace('_', '-')}" in shown
        assert PARAMETERS[parameter.name].sentence in shown
    assert "--temperature X" in shown and "[default: 1.0]" in shown


def test_an_inexpressible_field_is_noticed() -> None:
    with pytest.raises(TypeError, match="no option can express"):
        option("bias", dict[int, float], "", {})


def test_selected_fields_only() -> None:
    assert [parameter.name for parameter in config_options(["revision", "model"])] == ["revision"]
