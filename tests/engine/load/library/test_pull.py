"""Pulling from a stand-in hub: progress, what is told before weights are fetched, cancelling."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import ANY

from tests.hub_server import Files, Hub, commit
from tests.model_folders import model_files
from tests.safetensors_file import safetensors

MODEL: Files = {
    **model_files(),
    "chat_template.jinja": b"{{ messages }}",
    "README.md": b"words",
    "modeling_evil.py": b"raise SystemExit",
    "1_Pooling/config.json": b"{ }",
    "2_Dense/model.safetensors": safetensors(fill=3),
    "additional_chat_templates/tool_use.jinja": b"{{ tools }}",
    "onnx/config.json": b"{}",
    "assets/preprocessor.json": b"{}",
    "1_Pooling/../../../evil.json": b"{}",
    "original/model.safetensors": safetensors(fill=9),
}
WANTED = {
    *("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"),
    *("chat_template.jinja", "1_Pooling/config.json", "2_Dense/model.safetensors"),
    "additional_chat_templates/tool_use.jinja",
}
SAFE = {name: content for name, content in MODEL.items() if ".." not in name}
# huggingface_hub writes in pieces of 10 MiB: only larger files have progress of their own.
LARGE = {**SAFE, "model.safetensors": safetensors(rows=1_000_000)}
SCRIPT = """
import json, sys, threading
from budmlx.engine.load.library.pull import pull
from budmlx.errors import BudmlxError
def pulled(name, revision="", stop=0):
    cancelled, steps = threading.Event(), []
    def report(progress):
        steps.append((progress.stage, progress.done, progress.total))
        if stop and progress.done >= stop:
            cancelled.set()
    try:
        result = {"path": str(pull(name, revision or None, report, cancelled))}
    except BudmlxError as error:
        result = {"code": error.code, "message": error.message}
    except KeyboardInterrupt:
        result = {"code": "interrupted"}
    return {**result, "steps": steps}
print(json.dumps([pulled(*arguments) for arguments in json.loads(sys.argv[1])]))
"""


def command(*pulls: tuple[Any, ...]) -> list[str]:
    return [sys.executable, "-c", SCRIPT, json.dumps(pulls)]


def pulled(
    hub: Hub, home: Path, *pulls: tuple[Any, ...], **environment: str
) -> list[dict[str, Any]]:
    """What pulls in a process of their own came to: huggingface_hub reads variables at import.

    pulls: names, or with a revision, or with that and the bytes at which it is cancelled.
    """
    done = subprocess.run(
        command(*pulls),
        env=hub.environment(home, **environment),
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    result: list[dict[str, Any]] = json.loads(done.stdout)
    return result


def files_of(path: str) -> set[str]:
    return {str(file.relative_to(path)) for file in Path(path).rglob("*") if file.is_file()}


def no_weights(hub: Hub) -> bool:
    return not [s for s in hub.seen if s.method == "GET" and "/resolve/" in s.path]


def test_progress_counts_the_bytes_of_what_is_needed(tmp_path: Path) -> None:
    with Hub({"org/model": {"main": LARGE}}) as hub:
        small = sum(len(LARGE[name]) for name in WANTED - {"model.safetensors"})
        stopped, done, again = pulled(
            hub, tmp_path, ("org/model", "", small + 1), ("org/model",), ("org/model",)
        )
    assert stopped["code"] == "cancelled" and not list(tmp_path.rglob("*.incomplete"))
    assert files_of(done["path"]) == WANTED
    total = sum(len(LARGE[name]) for name in WANTED)
    stages = [stage for stage, _, _ in done["steps"]]
    assert stages[0] == "checking" and stages[-1] == "done"
    counts = [count for stage, count, _ in done["steps"] if stage == "downloading"]
    assert counts == sorted(counts) and counts[0] <= small and counts[-1] == total
    assert len(set(counts)) > 3, "the large file has steps of its own"
    assert {whole for stage, _, whole in done["steps"] if stage != "checking"} == {total}
    assert again["steps"] == [["checking", 0, 0], ["done", total, total]]


def test_names_that_lead_outside_are_not_followed(tmp_path: Path) -> None:
    home = tmp_path / "a" / "b" / "home"
    with Hub({"org/model": {"main": MODEL}}) as hub:
        (done,) = pulled(hub, home, ("org/model",))
    assert "path" in done or "not safe" in done["message"]
    assert not [path for path in tmp_path.rglob("evil.json") if home not in path.parents]


def test_what_another_revision_has_is_not_fetched_again(tmp_path: Path) -> None:
    newer = {**SAFE, "chat_template.jinja": b"{{ newer }}"}
    with Hub({"org/model": {"main": SAFE, "v2": newer}}) as hub:
        first, second = pulled(hub, tmp_path, ("org/model", "v2"), ("org/model",))
    assert first["path"].endswith(commit(newer)) and second["path"].endswith(commit(SAFE))
    assert len(hub.downloads("model.safetensors")) == 2  # of it and of a layer
    assert len(hub.downloads("chat_template.jinja")) == 2
    template = len(SAFE["chat_template.jinja"])
    assert second["steps"][1] == ["downloading", second["steps"][-1][1] - template, ANY]


def test_what_cannot_be_fetched_is_told_in_a_line_before_a_byte(tmp_path: Path) -> None:
    repositories = {
        **{f"org/{name}": {"main": SAFE} for name in ("model", "gated", "closed")},
        "org/gguf": {"main": {"README.md": b"", "model.Q4.gguf": b"GGUF"}},
        "org/huge": {"main": {**SAFE, "model-huge.safetensors": b""}},
    }
    expected = {
        ("org/gated",): ("gated", "licence accepted on its web page, then HF_TOKEN set"),
        ("org/closed",): ("gated", "licence accepted on its web page, then HF_TOKEN set"),
        ("org/huge",): ("no_space", "888.2 PiB are to be fetched"),
        ("org/none",): ("repository_not_found", "The hub has no repository org/none"),
        ("org/model", "v9"): ("revision_not_found", "org/model has no revision 'v9'"),
        ("org/gguf",): ("model_load_error", "has GGUF weights"),
        ("nowhere",): ("model_load_error", "named like org/name"),
        ("../../etc",): ("model_load_error", "named like org/name"),
    }
    gated, huge = {"org/gated": 401, "org/closed": 403}, {"model-huge.safetensors": 10**18}
    with Hub(repositories, gated=gated, claimed=huge) as hub:
        refused = pulled(hub, tmp_path, *expected)
        assert not [s for s in hub.seen if s.method == "GET" and "/resolve/" in s.path]
        (opened,) = pulled(hub, tmp_path, ("org/gated",), HF_TOKEN="hf_secret")
    for each, (code, words) in zip(refused, expected.values(), strict=True):
        assert each["code"] == code and words in each["message"]
        assert "\n" not in each["message"]
        assert [stage for stage, _, _ in each["steps"]] in (["checking"], [])
    assert str(tmp_path) in refused[2]["message"] and "HF_HOME" in refused[2]["message"]
    assert files_of(opened["path"]) == WANTED


def test_ctrl_c_does_not_wait_for_the_file(tmp_path: Path) -> None:
    with Hub({"org/model": {"main": LARGE}}, stall={"model.safetensors"}) as hub:
        child = subprocess.Popen(
            command(("org/model",)),
            env=hub.environment(tmp_path),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert hub.stalled.wait(60)
        time.sleep(0.2)
        os.kill(child.pid, signal.SIGINT)
        time.sleep(0.2)
        hub.resume.set()
        text, _ = child.communicate(timeout=60)
    assert json.loads(text)[0]["code"] == "interrupted"
    assert not list(tmp_path.rglob("*.incomplete"))
    assert not list(tmp_path.rglob("snapshots/*/model.safetensors"))
