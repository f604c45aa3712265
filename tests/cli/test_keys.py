"""`budmlx keys`: keys are made, listed and revoked."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from budmlx.cli.app import app
from budmlx.config.keys import ApiKey, digest_of, parsed


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("BUDMLX_API_KEY_FILE", raising=False)
    return tmp_path


def run(*args: str) -> Result:
    return CliRunner().invoke(app, ["keys", *args])


def records(file: Path) -> dict[str, ApiKey]:
    return {each.name: each for each in parsed(file.read_text()).records}


def test_a_key_is_shown_once(home: Path) -> None:
    made = run("add", "alice")
    key = made.stdout.strip()
    assert made.exit_code == 0 and "shown only now" in made.stderr
    assert "--api-key-file auto" in made.stderr
    file = home / "state" / "budmlx" / "keys"
    assert file.stat().st_mode & 0o777 == 0o600 and key not in file.read_text()
    assert records(file)["alice"].digest == digest_of(key)
    listed = run("list")
    assert "alice" in listed.stdout and "keys: 1" in listed.stdout and key not in listed.output


def test_keys_of_a_configured_file(home: Path) -> None:
    file, config = home / "keys", home / "config.toml"
    file.write_text("plain-key\n")
    config.write_text(f'api_key_file = "{file}"\n')
    made = run("add", "root", "--admin", "--config", str(config))
    assert made.exit_code == 0 and "Serve with" not in made.stderr
    assert records(file)["root"].admin and file.read_text().startswith("plain-key\n")
    other = run("add", "root", "--api-key-file", str(home / "others"))
    assert other.exit_code == 0 and not records(home / "others")["root"].admin
    assert "keys: 1, 1 without names" in run("--config", str(config)).stdout
    assert run("revoke", "root", "--config", str(config)).exit_code == 0
    assert file.read_text() == "plain-key\n"


def test_limits_of_a_key(home: Path) -> None:
    options = ("--rpm", "30", "--models", "small, org/big:poet,", "--background")
    made = run("add", "alice", *options)
    assert made.exit_code == 0
    found = records(home / "state" / "budmlx" / "keys")["alice"]
    assert found.background and found.rpm == 30 and found.models == ("small", "org/big:poet")
    row = next(line for line in run("list").stdout.splitlines() if line.startswith("alice"))
    assert row.split() == ["alice", "background", "30", "small,", "org/big:poet", "never"]


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("2500-01-31", datetime(2500, 2, 1, tzinfo=UTC)),
        ("90m", timedelta(minutes=90)),
        ("12h", timedelta(hours=12)),
        ("30d", timedelta(days=30)),
        ("2w", timedelta(weeks=2)),
    ],
)
def test_when_a_key_ends(home: Path, text: str, end: datetime | timedelta) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    assert run("add", "alice", "--expires", text).exit_code == 0
    found = records(home / "state" / "budmlx" / "keys")["alice"].expires
    assert found is not None
    if isinstance(end, datetime):
        assert found == end
    else:
        assert before + end <= found <= datetime.now(UTC) + end


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["add"], "A name is missing"),
        (["revoke"], "A name is missing"),
        (["list", "alice"], "NAME goes with add and revoke"),
        (["add", "a b"], "cannot be the name"),
        (["add", "key-1"], "is not like key-1"),
        (["add", "alice", "--expires", "soon"], "such as 30d"),
        (["add", "alice", "--expires", "9999-12-31"], "such as 30d"),
        (["add", "alice", "--expires", "2020-01-31"], "which is over"),
        (["add", "alice", "--models", ","], "names no model"),
        (["revoke", "alice"], "No such file"),
        (["list"], "Make a key with: budmlx keys add NAME"),
    ],
)
def test_what_is_wrong_is_said(home: Path, args: list[str], reason: str) -> None:
    result = run(*args)
    assert result.exit_code == 1 and reason in " ".join(result.output.split())
    assert not (home / "state" / "budmlx" / "keys").exists()
