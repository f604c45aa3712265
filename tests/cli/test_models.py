"""`budmlx models`, `pull` and `rm` on folders as the hub and LM Studio lay them out."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import Result
from huggingface_hub import constants
from typer.testing import CliRunner

from budmlx.cli.app import app
from budmlx.engine.load.hub import local_directory, resolve_model
from budmlx.errors import ModelLoadError
from tests.hub_server import Hub
from tests.model_folders import folder, model_files, snapshot
from tests.models import tiny_model_dir
from tests.safetensors_file import safetensors

GOOD = model_files()


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def budmlx(*arguments: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(app, arguments, input=answer)


def test_models_are_listed_and_what_is_wrong_with_others(cache: Path, tmp_path: Path) -> None:
    snapshot(cache, "org/in-hub", GOOD)
    folder(tmp_path / ".lmstudio" / "models" / "org" / "gguf", {"x.gguf": b"GGUF"})
    folder(tmp_path / "one" / "mine\x1b[2J", GOOD)
    folder(tmp_path / "two" / "org" / "other", GOOD)
    dirs = [f"--models-dir={tmp_path / name}" for name in ("one", "two")]
    shown = budmlx("models", *dirs).stdout
    lines = [line.split() for line in shown.splitlines()]
    assert lines[0] == ["Model", "Size", "Parameters", "Weights", "Context", "Kind", "Place"]
    assert [line[0] for line in lines[1:4]] == ["mine\ufffd[2J", "org/in-hub", "org/other"]
    assert lines[2][2:] == ["KiB", "0.0", "M", "F32", "4,096", "chat", "hub"]
    assert lines[4][:5] == ["Not", "served:", "org/gguf", "has", "GGUF"]
    listed = json.loads(budmlx("models", "--json", *dirs).stdout)
    assert {each["name"]: each["servable"] for each in listed} == {
        "mine\x1b[2J": True,
        "org/gguf": False,
        "org/in-hub": True,
        "org/other": True,
    }


def test_where_nothing_is_it_says_how_to_get_a_model(tmp_path: Path) -> None:
    shown = budmlx("models").stdout
    assert "budmlx pull mlx-community/Qwen3-4B-4bit" in shown
    assert json.loads(budmlx("models", "--json").stdout) == []


def test_directories_may_stand_in_the_file_or_in_a_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder(tmp_path / "one" / "a", GOOD)
    folder(tmp_path / "two" / "b", GOOD)
    (tmp_path / "c.toml").write_text(f'models_dir = ["~/one", "{tmp_path}/two"]\n')
    shown = budmlx("models", "--config", str(tmp_path / "c.toml")).stdout
    assert [line.split()[0] for line in shown.splitlines()] == ["Model", "a", "b"]
    monkeypatch.setenv("BUDMLX_MODELS_DIR", "~/two")
    assert "\nb " in budmlx("models").stdout


def test_names_of_all_places_can_be_loaded(cache: Path, tmp_path: Path) -> None:
    studio = folder(tmp_path / ".lmstudio" / "models" / "org" / "studio", GOOD)
    flat = folder(tmp_path / "one" / "flat", GOOD)
    old = snapshot(cache, "gpt2", GOOD)
    assert resolve_model("org/studio") == studio
    assert resolve_model("flat", models_dirs=[tmp_path / "one"]) == flat
    assert resolve_model("gpt2") == old
    assert local_directory("org/studio") == resolve_model("org/studio", fetch=False) == studio
    assert local_directory("flat") is None
    assert local_directory("flat", models_dirs=[tmp_path / "one"]) == flat
    (tmp_path / "c.toml").write_text(f'model = "flat"\nmodels_dir = "{tmp_path}/one"\n')
    (flat / "generation_config.json").write_text('{"temperature": 0.125}')
    shown = budmlx("serve", "--print-config", "--config", str(tmp_path / "c.toml")).stdout
    assert "# temperature = 0.125  # generation_config.json" in shown
    with pytest.raises(ModelLoadError, match="budmlx pull new/model --revision v2"):
        resolve_model("new/model", "v2", fetch=False)
    (flat / "model.safetensors").unlink()
    with pytest.raises(ModelLoadError, match=r"^flat has no weights"):
        resolve_model("flat", models_dirs=[tmp_path / "one"])
    with pytest.raises(ModelLoadError, match="budmlx models"):
        resolve_model("flatt", models_dirs=[tmp_path / "one"])


def test_a_model_answers_under_its_name_in_a_directory(tmp_path: Path) -> None:
    (tmp_path / "models" / "org").mkdir(parents=True)
    (tmp_path / "models" / "org" / "mine").symlink_to(tiny_model_dir())
    option = f"--models-dir={tmp_path / 'models'}"
    shown = budmlx("generate", "org/mine", "Hello", option, "--max-tokens=2", "--seed=1")
    assert shown.exit_code == 0 and "Loaded in" in shown.stderr
    unknown = budmlx("generate", "mine", "Hello", option)
    assert unknown.exit_code == 1 and "budmlx models" in unknown.stderr


def test_rm_asks_and_removes_all_revisions_of_one_model(cache: Path) -> None:
    path = snapshot(cache, "org/model", GOOD)
    snapshot(cache, "org/model", model_files(README__md=b"x" * 2**21), ref="v2")
    kept = snapshot(cache, "org/kept", GOOD)  # a copy, with the same commit
    (path.parents[1] / "blobs" / "0123.incomplete").write_bytes(b"x" * 2**20)
    asked = budmlx("rm", "org/model", answer="n\n")
    assert asked.exit_code == 1 and "3.0 MiB, 2 revisions" in asked.stdout
    assert (path / "config.json").exists()
    assert budmlx("rm", "org/model", answer="").exit_code == 1
    assert (path / "config.json").exists()
    removed = budmlx("rm", "org/model", "--yes")
    assert removed.exit_code == 0 and "3.0 MiB are free again" in removed.stdout
    assert not path.parents[1].exists() and (kept / "model.safetensors").exists()


@pytest.mark.parametrize("damage", ["blob", "ref", "begun"])
def test_rm_removes_what_is_damaged_too(cache: Path, damage: str) -> None:
    path = snapshot(cache, "org/model", GOOD)
    if damage == "blob":
        (path / "config.json").resolve().unlink()
    elif damage == "ref":
        (path.parents[1] / "refs" / "main").write_text("0" * 40)
    else:
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
        path.parent.rmdir()
        (path.parents[1] / "blobs" / "0123.incomplete").write_bytes(b"part")
    kept = snapshot(cache, "org/kept", GOOD)
    assert "Removed org/model" in budmlx("rm", "org/model", "-y").stdout
    assert not path.parents[1].exists() and (kept / "config.json").exists()


def test_rm_touches_nothing_outside_of_the_hubs_cache(cache: Path, tmp_path: Path) -> None:
    studio = folder(tmp_path / ".lmstudio" / "models" / "org" / "studio", GOOD)
    mine = folder(tmp_path / "one" / "mine", GOOD)
    moved = snapshot(tmp_path / "disk", "org/moved", GOOD)
    cache.mkdir()
    (cache / "models--org--moved").symlink_to(moved.parents[1])
    for name, path in (("org/studio", studio), ("mine", mine), ("org/moved", moved)):
        refused = budmlx("rm", name, "--yes", f"--models-dir={tmp_path / 'one'}")
        assert refused.exit_code == 1 and len(refused.stderr.splitlines()) == 1
        assert str(path.parents[1] if name == "org/moved" else path) in refused.stderr
        assert (path / "config.json").exists()
    unknown = budmlx("rm", "org/studi", "--yes")
    assert unknown.exit_code == 1 and "Did you mean org/studio?" in unknown.stderr


def test_rm_takes_the_hubs_copy_of_several(cache: Path, tmp_path: Path) -> None:
    mine = folder(tmp_path / "one" / "org" / "model", GOOD)
    hub = snapshot(cache, "org/model", GOOD)
    assert budmlx("rm", "org/model", "-y", f"--models-dir={tmp_path / 'one'}").exit_code == 0
    assert mine.exists() and not hub.exists()


def test_pull_shows_a_bar_and_what_it_fetched(tmp_path: Path) -> None:
    bert = model_files({"model_type": "bert"})
    with Hub({"org/model": {"main": GOOD, "v2": bert}}) as hub:
        script = (
            "from budmlx.cli.app import app; import sys;"
            "[app(['pull', 'org/model', *each.split()], standalone_mode=False)"
            " for each in sys.argv[1:]]"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, "", "", "--revision v2", "--revision v3"],
            env=hub.environment(tmp_path, HOME=str(tmp_path)),
            capture_output=True,
            text=True,
            timeout=110,
        )
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert len(lines) == 3 and lines[0] == lines[1]
    assert f" KiB in {tmp_path}/hub/models--org--model" in lines[0]
    assert "Fetching org/model: 100%" in done.stderr
    assert "cannot be served: org/model is an encoder (bert)" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("budmlx: org/model has no revision 'v3'")


@pytest.mark.parametrize("arguments", [["pull"], ["serve", "--port", "0"]])
def test_ctrl_c_waits_for_no_hub(arguments: list[str], tmp_path: Path) -> None:
    large = {**GOOD, "model.safetensors": safetensors(rows=100_000)}
    with Hub({"org/model": {"main": large}}, stall={"model.safetensors"}) as hub:
        child = subprocess.Popen(
            [sys.executable, "-m", "budmlx", arguments[0], "org/model", *arguments[1:]],
            env=hub.environment(tmp_path, HF_HUB_DOWNLOAD_TIMEOUT="600"),
            stderr=subprocess.PIPE,
            text=True,
        )
        assert hub.stalled.wait(60)
        child.send_signal(signal.SIGINT)
        _, told = child.communicate(timeout=60)
        assert not hub.resume.is_set()
    assert child.returncode == 130 and "Aborted" in told
