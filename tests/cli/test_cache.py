"""`budmlx cache` on files that a store wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from budmlx.cli.app import app
from budmlx.config import kv_directory
from tests.core.reuse.kv_writer import fill, open_store, settle


@pytest.fixture(autouse=True)
def no_user_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = Path(kv_directory())
    for identity, count in (("a", 2), ("b", 1)):
        store = open_store(directory, identity=identity)
        fill(store, list(range(count)))
        store.close(20)
    (directory / "notes.txt").write_text("mine")
    return directory


def cache(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["cache", *arguments])


def test_it_lists_what_there_is_of_each_model(directory: Path) -> None:
    damaged = next(directory.glob("*/*.safetensors"))
    damaged.rename(damaged.with_suffix(".bad"))
    lines = cache().stdout.splitlines()
    assert lines[0].split() == ["Model", "Id", "Blocks", "Size", "Last", "used"]
    rows = {line.split()[1]: line for line in lines[1:-1]}
    assert rows.keys() == {folder.name for folder in directory.iterdir() if folder.is_dir()}
    assert all(line.startswith("org/model ") for line in rows.values())
    assert "and 1 damaged" in rows[damaged.parent.name]
    total = sum(path.stat().st_size for path in directory.glob("*/*"))
    assert lines[-1] == f"{total / 2**10:.1f} KiB of at most 10.0 GiB in {directory}"


def test_it_clears_one_model_or_all_and_nothing_else(directory: Path) -> None:
    one, other = (folder for folder in directory.iterdir() if folder.is_dir())
    assert cache("clear", one.name).stdout.startswith("Removed ")
    assert not one.exists() and other.exists()
    (other / "mine.txt").write_text("mine")
    assert cache("clear", "org/model").exit_code == 0
    assert [path.name for path in other.iterdir()] == ["mine.txt"]
    assert (directory / "notes.txt").exists()


def test_an_unknown_model_is_refused(directory: Path) -> None:
    result = cache("clear", "nothing")
    assert result.exit_code == 1 and "budmlx cache list" in result.stderr
    assert len(list(directory.glob("*/*"))) == 12


def test_the_directory_may_be_named_or_missing(directory: Path, tmp_path: Path) -> None:
    moved = directory.rename(tmp_path / "else where")
    assert cache().stdout.startswith("0 B of at most 10.0 GiB in")
    assert "org/model" in cache("--kv-store", str(moved)).stdout
    (tmp_path / "budmlx.toml").write_text(f'kv_store = "{moved}"\nkv_store_size = "1GiB"\n')
    shown = cache("--config", str(tmp_path / "budmlx.toml")).stdout
    assert "org/model" in shown and "of at most 1.0 GiB" in shown


def test_auto_is_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = cache("--kv-store", "auto").stdout
    assert shown.endswith(f"{kv_directory()}\n") and f"{tmp_path}/" in shown
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert cache().stdout.endswith(f"{tmp_path}/elsewhere/budmlx/kv\n")
    assert cache("--kv-store", "~/mine").stdout.endswith(f"{tmp_path}/mine\n")


def test_a_server_that_runs_goes_on(directory: Path) -> None:
    store = open_store(directory)
    fill(store, [0])
    settle(store)  # Its writer has looked at the directory: only now it runs.
    assert cache("clear").exit_code == 0
    fill(store, [0])
    store.close(20)
    assert (store.counters.written, store.counters.dropped) == (0, 0)
    store = open_store(directory)
    fill(store, [0])
    store.close(20)
    assert store.counters.written == 4
