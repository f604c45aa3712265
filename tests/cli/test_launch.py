"""`budmlx launch`: a script stands where the agent would be, and tells what it was given."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from budmlx.cli.app import app
from budmlx.cli.launch.tools import LEAST_CONTEXT, TOOLS, Target
from budmlx.engine.load.library.library import Library
from budmlx.testing.tiny_random import LLAMA
from tests.models import tiny_model_dir
from tests.server_process import started

ADMIN, USER = "admin-key", "user-key"
CONTEXT = 40_000
TEMPLATE = """\
{%- if tools -%}{%- for tool in tools -%}<tool>{{ tool | tojson }}</tool>{%- endfor -%}{%- endif -%}
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{{ message.content }}
{%- for call in message.tool_calls or [] -%}
<tool_call>
{{ call.function | tojson }}
</tool_call>
{%- endfor -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}
"""
AGENT = """\
#!{python}
import json, os, sys
settings = os.environ.get("QWEN_CODE_SYSTEM_SETTINGS_PATH")
text = open(settings).read() if settings else "{{}}"
told = {{"variables": dict(os.environ), "arguments": sys.argv[1:], "settings": json.loads(text)}}
open({file!r}, "w").write(json.dumps(told))
sys.exit(int(os.environ.get("AGENT_CODE", 0)))
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of an agent's size: one takes no tools, and one is too short."""
    root = tmp_path_factory.mktemp("models")
    long = {**LLAMA, "max_position_embeddings": CONTEXT}
    for name, config in (("good", long), ("talker", long), ("short", LLAMA)):
        shutil.copytree(tiny_model_dir(config), root / "org" / name)
        template = "{{ messages[0].content }}" if name == "talker" else TEMPLATE
        (root / "org" / name / "chat_template.jinja").write_text(template)
    return root


@pytest.fixture(scope="module")
def url(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    keys = {"BUDMLX_ADMIN_KEY": ADMIN, "BUDMLX_API_KEYS": USER}
    environment = {**kept, **keys, "HOME": str(tmp_path_factory.mktemp("home"))}
    options = ("--port", "0", "--warmup", "off", "--models-dir", str(models))
    with started(*options, environment=environment) as (url, _):
        yield url


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file with what the agents were given, all of which are in PATH."""
    for key in [key for key in os.environ if key.startswith("BUDMLX_") and "DEVICE" not in key]:
        monkeypatch.delenv(key)
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS.values():
        script = folder / tool.program
        script.write_text(AGENT.format(python=sys.executable, file=str(tmp_path / "told.json")))
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / "told.json"


def launch(*arguments: str, **variables: str) -> Result:
    return CliRunner(env=variables).invoke(app, ["launch", *arguments])


def where(url: str) -> dict[str, str]:
    return {"BUDMLX_BASE_URL": f"{url}/v1", "BUDMLX_API_KEY": USER, "BUDMLX_ADMIN_KEY": ADMIN}


def given(told: Path) -> tuple[dict[str, str], list[str], Any]:
    found = json.loads(told.read_text())
    return found["variables"], found["arguments"], found["settings"]


def test_claude_gets_one_model_for_all_tiers(url: str, told: Path) -> None:
    done = launch("claude", "--model", "org/good", "--", "-p", "Hi there", **where(url))
    assert done.exit_code == 0, done.stderr
    variables, arguments, _ = given(told)
    assert arguments == ["-p", "Hi there"]
    assert variables["ANTHROPIC_BASE_URL"] == url
    # Not the admin key, which would open more than an agent needs.
    assert variables["ANTHROPIC_AUTH_TOKEN"] == USER
    assert ADMIN not in variables.values() and "BUDMLX_API_KEY" not in variables
    for tier in ("ANTHROPIC", "ANTHROPIC_DEFAULT_OPUS", "ANTHROPIC_DEFAULT_HAIKU"):
        assert variables[f"{tier}_MODEL"] == "org/good"
    assert variables["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == str(CONTEXT)
    assert variables["CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"] == "1"


def test_an_admin_key_is_no_key_for_agents(url: str, told: Path) -> None:
    keys = {**where(url), "BUDMLX_API_KEY": ADMIN, "BUDMLX_API_KEYS": USER}
    assert launch("claude", "--model", "org/good", **keys).exit_code == 0
    variables, _, _ = given(told)
    assert variables["ANTHROPIC_AUTH_TOKEN"] == USER
    assert ADMIN not in variables.values()


def test_codex_gets_overrides_before_its_arguments(url: str, told: Path) -> None:
    done = launch("codex", "--model", "org/good", "--", "exec", "Hi", **where(url))
    assert done.exit_code == 0, done.stderr
    variables, arguments, _ = given(told)
    assert arguments[-2:] == ["exec", "Hi"] and set(arguments[:-2:2]) == {"-c"}
    overrides = dict(argument.split("=", 1) for argument in arguments[1:-2:2])
    assert overrides["model"] == '"org/good"' and overrides["analytics.enabled"] == "false"
    assert overrides["model_providers.budmlx.base_url"] == f'"{url}/v1"'
    assert overrides["model_providers.budmlx.wire_api"] == '"responses"'
    assert overrides["model_context_window"] == str(CONTEXT)
    key = json.loads(overrides["model_providers.budmlx.env_key"])
    assert variables[key] == USER


def test_opencode_gets_a_configuration(url: str, told: Path) -> None:
    assert launch("opencode", "--model", "org/good", **where(url)).exit_code == 0
    variables, arguments, _ = given(told)
    content = json.loads(variables["OPENCODE_CONFIG_CONTENT"])
    provider = content["provider"]["budmlx"]
    assert provider["options"] == {"baseURL": f"{url}/v1", "apiKey": USER}
    assert provider["models"]["org/good"]["limit"]["context"] == CONTEXT
    assert content["model"] == content["small_model"] == "budmlx/org/good"
    assert not content["autoupdate"] and arguments == []


def test_qwen_gets_a_file_of_settings(url: str, told: Path) -> None:
    done = launch("qwen", "--model", "org/good", AGENT_CODE="3", **where(url))
    assert done.exit_code == 3
    variables, _, settings = given(told)
    assert variables["OPENAI_BASE_URL"] == f"{url}/v1" and variables["OPENAI_MODEL"] == "org/good"
    assert settings["model"]["generationConfig"]["contextWindowSize"] == CONTEXT
    assert not Path(variables["QWEN_CODE_SYSTEM_SETTINGS_PATH"]).exists()


@pytest.mark.parametrize("tool", TOOLS)
def test_print_shows_a_command_that_does_the_same(tool: str, url: str, told: Path) -> None:
    done = launch(tool, "--model", "org/good", "--print", **where(url))
    assert done.exit_code == 0 and not told.exists()
    subprocess.run(["/bin/sh", "-c", done.stdout], check=True, timeout=60)
    by_hand = given(told)
    assert launch(tool, "--model", "org/good", **where(url)).exit_code == 0
    variables, arguments, _ = given(told)
    setup = TOOLS[tool].setup(Target(url, USER, "org/good", CONTEXT))
    assert by_hand[1] == arguments == list(setup.arguments)
    for name, value in setup.variables.items():
        assert by_hand[0][name] == variables[name] == value


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("claude", "--model", "org/short"), "has a context of 8,192 tokens"),
        (("claude", "--model", "org/talker"), "takes no tools"),
        (("claude", "--model", "org/none"), "org/none"),
        (("claude",), "several models; name one of them, --model NAME: org/good"),
        (("vim", "--model", "org/good"), "vim is no agent"),
    ],
)
def test_what_is_of_no_use_is_refused(
    arguments: tuple[str, ...], problem: str, url: str, told: Path
) -> None:
    done = launch(*arguments, **where(url))
    assert done.exit_code == 1 and problem in done.stderr and not told.exists()
    assert len(done.stderr.splitlines()) == 1


def test_an_agent_that_is_not_installed_is_told_of(
    url: str, told: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    done = launch("codex", "--model", "org/good", **where(url))
    assert done.exit_code == 1 and "npm install -g @openai/codex" in done.stderr


def test_no_server_and_no_model(told: Path) -> None:
    nobody = {"BUDMLX_BASE_URL": "http://127.0.0.1:9"}
    for options in ((), ("--model", "org/good"), ("--print",)):
        done = launch("claude", *options, **nobody)
        assert done.exit_code == 1 and "No server answers" in done.stderr
    done = launch("claude", BUDMLX_PORT="9")
    assert done.exit_code == 1 and "--model NAME" in done.stderr


def test_a_server_is_started_and_stopped(told: Path, models: Path) -> None:
    model = str(models / "org" / "good")
    done = launch("claude", "--model", model, BUDMLX_PORT="9", BUDMLX_WARMUP="off")
    assert done.exit_code == 0, done.stderr
    variables, _, _ = given(told)
    address = variables["ANTHROPIC_BASE_URL"]
    assert address in done.stderr and variables["ANTHROPIC_AUTH_TOKEN"] == "none"
    gone = launch("claude", BUDMLX_BASE_URL=address)
    assert "No server answers" in gone.stderr


def test_the_models_are_what_the_tests_say(models: Path) -> None:
    assert LLAMA["max_position_embeddings"] < LEAST_CONTEXT < CONTEXT
    assert Library([models]).at(models / "org" / "good").problem == ""
