"""`budmlx ps`, `load` and `unload` against a server in a process of its own."""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from pydantic import SecretStr
from typer.testing import CliRunner

from budmlx.cli.app import app
from budmlx.cli.doctor import software
from budmlx.config import Config
from tests.models import tiny_model_dir
from tests.server_process import started

ADMIN, USER = "admin-key", "user-key"
CONFIG = """
host = "127.0.0.1"
port = {port}
warmup = "off"
load_wait = 0.3
models_dir = ["{models}"]
[aliases]
"gpt-*" = "org/one"
[models."org/two"]
alias = ["second"]
pin = true
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("one", "two", "broken")):
        shutil.copytree(tiny_model_dir(seed=seed), root / "org" / name)
    (root / "org" / "broken" / "chat_template.jinja").write_text("{% if %}")
    return root


@pytest.fixture(scope="module")
def url(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("home")
    file = home / "config.toml"
    file.write_text(CONFIG.format(port=0, models=models))
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    keys = {"BUDMLX_ADMIN_KEY": ADMIN, "BUDMLX_API_KEYS": USER}
    environment = {**kept, **keys, "HOME": str(home)}
    with started("--config", str(file), environment=environment) as (url, _):
        yield url


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for key in [key for key in os.environ if key.startswith("BUDMLX_") and "DEVICE" not in key]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("HOME", str(tmp_path))


def budmlx(*arguments: str, **variables: str) -> Result:
    return CliRunner(env=variables).invoke(app, arguments)


def told(result: Result) -> str:
    """The one line on stderr of a command that failed."""
    assert result.exit_code == 1, result.stdout
    assert len(result.stderr.splitlines()) == 1, result.stderr
    return result.stderr


def test_models_are_loaded_listed_and_unloaded(url: str) -> None:
    where = {"BUDMLX_BASE_URL": f"{url}/v1/", "BUDMLX_ADMIN_KEY": ADMIN}
    assert budmlx("ps", **where).stdout == f"No model is loaded at {url}.\n"
    assert json.loads(budmlx("ps", "--json", **where).stdout) == []
    done = budmlx("load", "gpt-4o", **where)
    assert done.exit_code == 0, done.stderr
    assert re.fullmatch(
        r"org/one is loaded: at most [\d.]+ [GM]iB, of which the weights take [\d.]+ KiB; "
        r"8,192 tokens\.\n",
        done.stdout,
    )
    assert budmlx("load", "second", **where).stdout.startswith("org/two is loaded: ")
    lines = {line.split()[0]: line.split() for line in budmlx("ps", **where).stdout.splitlines()}
    assert lines.keys() == {"Model", "org/one", "org/two"}
    assert lines["org/one"][1] == "loaded" and lines["org/one"][-2:] == ["0", "8,192"]
    assert lines["org/two"][1:3] == ["loaded,", "pinned"] and lines["org/two"][-1] == "second"
    two, one = json.loads(budmlx("ps", "--json", **where).stdout)
    assert one["id"] == "org/one" and two["residence"]["pinned"] is True
    assert budmlx("unload", "org/one", **where).stdout == "org/one is unloaded.\n"
    assert [each["id"] for each in json.loads(budmlx("ps", "--json", **where).stdout)] == [
        "org/two"
    ]


def test_doctor_knows_the_port_of_a_server(url: str) -> None:
    port = int(url.rpartition(":")[2])
    found = software.port(Config(port=port, api_keys=(SecretStr(USER),)))
    assert (found.subject, found.state) == ("Port", "good")
    assert f"budmlx answers at 127.0.0.1:{port}" in found.text


def test_what_keys_used_is_shown(url: str) -> None:
    admin = {"BUDMLX_BASE_URL": url, "BUDMLX_ADMIN_KEY": ADMIN}
    where = {"BUDMLX_BASE_URL": url, "BUDMLX_API_KEY": USER}
    before = budmlx("keys", "usage", **where).stdout
    assert before.startswith("No key was used.\nThe day ends at ")
    body = {"model": "second", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {USER}"},
    )
    with urllib.request.urlopen(request) as response:
        usage = json.load(response)["usage"]
    for who in (where, admin):
        lines = budmlx("keys", "usage", "--days", "2", **who).stdout.splitlines()
        counts = [usage[f"{name}_tokens"] for name in ("prompt", "completion", "total")]
        key, _, *rest = lines[1].split()
        assert key == "key-1" and rest == ["1", *map(str, counts)]
    assert "Set BUDMLX_API_KEY" in told(budmlx("keys", "usage", BUDMLX_BASE_URL=url))


def test_what_the_server_refuses_is_said_in_a_line(url: str) -> None:
    admin = {"BUDMLX_BASE_URL": url, "BUDMLX_ADMIN_KEY": ADMIN}
    assert "No model named 'org/on' is served here." in told(budmlx("load", "org/on", **admin))
    assert "BUDMLX_ADMIN_KEY" in told(
        budmlx("load", "org/one", BUDMLX_BASE_URL=url, BUDMLX_API_KEY=USER)
    )
    assert "Set BUDMLX_API_KEY to a key" in told(budmlx("ps", BUDMLX_BASE_URL=url))
    assert "chat template is not valid" in told(budmlx("load", "org/broken", **admin))
    (entry,) = (
        each
        for each in json.loads(budmlx("ps", "--json", **admin).stdout)
        if each["id"] == "org/broken"
    )
    assert entry["state"] == "failed"
    assert "org/broken failed: The model's chat template" in budmlx("ps", **admin).stdout


def test_the_server_of_the_configuration_is_found(url: str, models: Path, tmp_path: Path) -> None:
    file = tmp_path / "budmlx.toml"
    port = url.rpartition(":")[2]
    text = CONFIG.format(port=port, models=models).replace("127.0.0.1", "0.0.0.0")
    file.write_text(f'api_keys = ["{USER}"]\n{text}')
    found = budmlx("ps", "--json", "--config", str(file))
    assert found.exit_code == 0, found.stderr
    assert budmlx("ps", BUDMLX_PORT=port, BUDMLX_API_KEY=USER).exit_code == 0
    assert "http://127.0.0.1:1 " in told(budmlx("ps", BUDMLX_PORT="1"))
    assert "set BUDMLX_BASE_URL" in told(budmlx("ps", BUDMLX_PORT="0"))
    assert "http://[::1]:1 " in told(budmlx("ps", BUDMLX_PORT="1", BUDMLX_HOST="::"))
    assert "such as http://" in told(budmlx("ps", BUDMLX_BASE_URL="file:///etc/passwd"))


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (200, b"<html>", "is not a server of budmlx"),
        (200, b"[]", "is not a server of budmlx"),
        (200, b'{"data": [{"id": "llama"}]}', "is not a server of budmlx"),
        (200, b"{}", "is not a server of budmlx"),
        (200, b'{"data": 5}', "is not a server of budmlx"),
        (404, b"nothing", "answered 404 Not Found: is it budmlx?"),
    ],
)
def test_another_server_is_told_apart(status: int, body: bytes, words: str) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        line = told(budmlx("ps", BUDMLX_BASE_URL=f"http://127.0.0.1:{other.server_port}"))
        other.shutdown()
    assert words in line
