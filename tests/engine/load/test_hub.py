"""Names become checked directories. Downloads come from a stand-in hub on loopback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from budmlx.engine.load.directory import check_links
from budmlx.engine.load.hub import local_directory, model_name, resolve_model
from budmlx.errors import ModelLoadError
from tests.hub_server import Files, Hub, commit
from tests.safetensors_file import CONFIG, safetensors

MODEL: Files = {
    "config.json": json.dumps(CONFIG).encode(),
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "model.safetensors": safetensors(fill=1),
    "modeling_evil.py": b"raise SystemExit",
    "pytorch_model.bin": b"pickle",
    "onnx/config.json": b"{}",
}
OTHER: Files = {**MODEL, "model.safetensors": safetensors(fill=2)}
SCRIPT = """
import sys
from budmlx.engine.load.hub import resolve_model
from budmlx.errors import ModelLoadError
failed = False
for name in sys.argv[1:]:
    try:
        print(resolve_model(*name.split("@")))
    except ModelLoadError as error:
        failed = True
        print(error.message, file=sys.stderr)
sys.exit(failed)
"""


def resolve(
    hub: Hub, home: Path, *names: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Resolve in a process of its own, because huggingface_hub reads its variables at import.

    names: each a repository, or one and a revision: org/model@main.
    """
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, *names],
        env=hub.environment(home, **environment),
        capture_output=True,
        text=True,
        timeout=110,
    )


def test_download_fetches_what_loading_needs_and_shows_progress(tmp_path: Path) -> None:
    with Hub({"org/model": {"main": MODEL}}) as hub:
        done = resolve(hub, tmp_path, "org/model")
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.strip())
    assert {file.name for file in path.iterdir()} == {
        "config.json",
        "tokenizer.json",
        "chat_template.jinja",
        "model.safetensors",
    }
    assert (path / "model.safetensors").read_bytes() == MODEL["model.safetensors"]
    size = sum(file.stat().st_size for file in path.iterdir())
    assert "Fetching org/model: 100%" in done.stderr
    assert f"| {size / 1024:.2f}k/{size / 1024:.2f}k [" in done.stderr


def test_what_is_here_is_found_without_the_hub(tmp_path: Path) -> None:
    lookup = SCRIPT.replace("resolve_model", "local_directory")
    assert local_directory(str(tmp_path)) == tmp_path
    with Hub({"org/model": {"main": MODEL}}) as hub:
        fetched = Path(resolve(hub, tmp_path, "org/model").stdout.strip())
        environment = hub.environment(tmp_path)
    names = ["org/model", "org/model@main", "org/model@v2", "org/other", "nonsense"]
    done = subprocess.run(
        [sys.executable, "-c", lookup, *names],
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.stdout.split() == [str(fetched), str(fetched), "None", "None", "None"], done.stderr


def test_second_resolve_downloads_nothing(tmp_path: Path) -> None:
    with Hub({"org/model": {"main": MODEL}}) as hub:
        first = resolve(hub, tmp_path, "org/model")
        hub.seen.clear()
        second = resolve(hub, tmp_path, "org/model")
        offline = resolve(hub, tmp_path, "org/model", HF_HUB_OFFLINE="1")
    assert first.stdout == second.stdout == offline.stdout
    assert second.stderr == offline.stderr == ""
    assert not any("/resolve/" in seen.path for seen in hub.seen)


def test_dropped_connection_resumes_from_the_last_byte(tmp_path: Path) -> None:
    # huggingface_hub writes in pieces of 10 MiB; only a larger file has a part to keep.
    content = safetensors(rows=700_000)
    files = {**MODEL, "model.safetensors": content}
    with Hub({"org/model": {"main": files}}, drop={"model.safetensors"}) as hub:
        done = resolve(hub, tmp_path, "org/model")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip(), "model.safetensors").read_bytes() == content
    ranges = [seen.range for seen in hub.downloads("model.safetensors")]
    assert ranges == [None, f"bytes={10 * 2**20}-"]


# LIMITS 109
def test_killed_download_is_never_taken_for_complete_and_keeps_finished_files(
    tmp_path: Path,
) -> None:
    with Hub({"org/model": {"main": MODEL}}, stall={"model.safetensors"}) as hub:
        child = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, "org/model"],
            env=hub.environment(tmp_path),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        assert hub.stalled.wait(60)
        child.kill()
        child.wait()
        offline = resolve(hub, tmp_path, "org/model", HF_HUB_OFFLINE="1")
        hub.resume.set()
        kept = {file.name for file in tmp_path.glob("hub/models--org--model/snapshots/*/*")}
        hub.seen.clear()
        done = resolve(hub, tmp_path, "org/model")
    assert offline.returncode == 1
    assert "HF_HUB_OFFLINE" in offline.stderr
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.strip())
    assert (path / "model.safetensors").read_bytes() == MODEL["model.safetensors"]
    assert not any(hub.downloads(name) for name in kept)


def test_revision_is_a_branch_or_a_commit(tmp_path: Path) -> None:
    with Hub({"org/model": {"main": MODEL, "v2": OTHER}}) as hub:
        names = (f"org/model@{revision}" for revision in ("v2", commit(OTHER), "v3"))
        done = resolve(hub, tmp_path, *names)
    branch, by_commit = done.stdout.splitlines()
    content = Path(branch, "model.safetensors").read_bytes()
    assert content == OTHER["model.safetensors"]
    assert by_commit == branch and Path(branch).name == commit(OTHER)
    assert done.returncode == 1
    assert "no revision 'v3'" in done.stderr


def test_missing_repository_says_what_to_check(tmp_path: Path) -> None:
    with Hub({}) as hub:
        endpoint = f"http://user:hunter2@{hub.netloc}"
        done = resolve(hub, tmp_path, "org/none", HF_TOKEN="hf_secret", HF_ENDPOINT=endpoint)
    assert done.returncode == 1
    assert done.stderr.strip().startswith("The hub has no repository org/none, or it is private.")
    assert "hf_secret" not in done.stderr
    assert "hunter2" not in done.stderr


def test_unreachable_hub_and_offline_say_so(tmp_path: Path) -> None:
    with Hub({}) as hub:
        gone = hub.environment(tmp_path)["HF_ENDPOINT"]
    online = resolve(hub, tmp_path, "org/model", HF_ENDPOINT=gone)
    offline = resolve(hub, tmp_path, "org/model", HF_HUB_OFFLINE="1")
    assert "Check the network and HF_ENDPOINT" in online.stderr
    assert "HF_HUB_OFFLINE is set" in offline.stderr
    assert online.returncode == offline.returncode == 1


# LIMITS 108
def test_repositories_without_safetensors_are_refused(tmp_path: Path) -> None:
    refused: dict[str, Files] = {
        "mlx_lm.convert": {"config.json": b"{}", "pytorch_model.bin": b"pickle"},
        "llama.cpp": {"model-q4.gguf": b"GGUF"},
        "has no weights": {"README.md": b""},
    }
    repositories = {f"org/{n}": {"main": files} for n, files in enumerate(refused.values())}
    with Hub(repositories) as hub:
        done = resolve(hub, tmp_path, *repositories)
    assert (done.returncode, done.stdout) == (1, "")
    said = [line for line in done.stderr.splitlines() if "org/" in line]
    assert len(said) == len(refused), done.stderr
    for reason, line in zip(refused, said, strict=True):
        assert reason in line
    assert not hub.downloads("pytorch_model.bin")


# LIMITS 110
def test_file_names_of_a_repository_stay_inside(tmp_path: Path) -> None:
    home = tmp_path / "home"
    names = ("../../../evil.json", "..\\..\\evil.json", "/tmp/evil.json")
    files = [{**MODEL, name: b"{}"} for name in names]
    with Hub({f"org/{n}": {"main": each} for n, each in enumerate(files)}) as hub:
        resolve(hub, home, *hub.repositories)
    outside = [path for path in tmp_path.rglob("*evil*") if home not in path.parents]
    assert not outside
    assert not Path("/tmp/evil.json").exists()


@pytest.mark.parametrize("name", ["../../nowhere", "nowhere", "a/b/c", "/no/where", "~/nowhere-"])
def test_names_that_are_neither_directory_nor_repository(name: str) -> None:
    with pytest.raises(ModelLoadError, match=r"no directory .* named like org/name"):
        resolve_model(name)


def test_directory_is_used_as_it_is(tmp_path: Path) -> None:
    for name, content in MODEL.items():
        if "/" not in name:
            (tmp_path / name).write_bytes(content)
    assert resolve_model(str(tmp_path)) == tmp_path
    with pytest.raises(ModelLoadError, match="revision"):
        resolve_model(str(tmp_path), "v2")


def test_file_is_not_a_model(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(ModelLoadError, match="is a file"):
        resolve_model(str(file))


def test_what_was_lost_is_named_and_fetched_again(tmp_path: Path) -> None:
    with Hub({"org/model": {"main": MODEL}}) as hub:
        path = Path(resolve(hub, tmp_path, "org/model").stdout.strip())
        weights = path / "model.safetensors"
        weights.resolve().unlink()
        assert weights.is_symlink() and not weights.exists()
        with pytest.raises(ModelLoadError, match=r"model\.safetensors is missing \(its link"):
            resolve_model(str(path))
        offline = resolve(hub, tmp_path, "org/model", HF_HUB_OFFLINE="1")
        again = resolve(hub, tmp_path, "org/model")
    assert offline.returncode == 1 and "HF_HUB_OFFLINE" in offline.stderr
    assert len(offline.stderr.strip().splitlines()) == 1
    assert again.returncode == 0, again.stderr
    assert weights.read_bytes() == MODEL["model.safetensors"]


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "a.jinja", "model-2.safetensors"]
)
def test_links_that_lead_nowhere_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "README.md").symlink_to("gone")
    check_links(tmp_path, "m")
    (tmp_path / name).symlink_to("../../blobs/gone")
    with pytest.raises(ModelLoadError, match=rf"^m: {name} is missing .* Download the model again"):
        check_links(tmp_path, "m")
    (tmp_path / "model-3.safetensors").symlink_to("gone")
    with pytest.raises(ModelLoadError, match=r"are missing \(their links lead nowhere"):
        check_links(tmp_path, "m")


def test_a_name_beside_directories_may_be_one(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    with Hub({}) as hub:
        told = subprocess.run(
            [sys.executable, "-c", SCRIPT, "models/nope"],
            env=hub.environment(tmp_path),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=110,
        )
    assert told.returncode == 1 and "There is no directory models/nope" in told.stderr


def test_names_of_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "hub" / "models--org--some--name" / "snapshots" / ("0123456789" * 4)
    snapshot.mkdir(parents=True)
    link = tmp_path / "my-model"
    link.symlink_to(snapshot)
    monkeypatch.chdir(link)
    names = {
        str(snapshot): "org/some--name",
        f"{snapshot}/": "org/some--name",
        str(link): "my-model",
        f"{tmp_path}/hub/../my-model/": "my-model",
        str(tmp_path): tmp_path.name,
        "org/name": "org/name",
    }
    assert {name: model_name(name) for name in names} == names
