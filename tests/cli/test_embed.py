"""`budmlx embed` writes a vector for each line of a file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from budmlx.cli.app import app
from budmlx.engine.engine import Engine
from tests.models import tiny_model_dir

TEXTS = ["a fox", "the lazy dog", "a fox"]


@pytest.fixture(autouse=True)
def no_user_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))


def test_lines_of_a_file_of_standard_input_and_of_json(tmp_path: Path) -> None:
    model = str(tiny_model_dir())
    with Engine.load(model, pooling="mean") as engine:
        expected = engine.embed(TEXTS, dimensions=8).vectors
    run, arguments = CliRunner(), ["--model", model, "--pooling", "mean", "--dimensions", "8"]
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(TEXTS) + "\n")
    done = run.invoke(app, ["embed", str(file), *arguments])
    found = np.array([json.loads(line) for line in done.stdout.splitlines()])
    assert np.allclose(found, expected, atol=1e-6)
    lines = [json.dumps(TEXTS[0]), *(json.dumps({"text": text}) for text in TEXTS[1:])]
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    out = tmp_path / "out.npy"
    run.invoke(app, ["embed", str(tmp_path / "texts.jsonl"), "-o", str(out), *arguments])
    assert np.allclose(np.load(out), expected, atol=1e-6)
    out = tmp_path / "out.jsonl"
    run.invoke(app, ["embed", "-", "-o", str(out), *arguments], input="\n".join(TEXTS))
    assert out.read_text() == done.stdout


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "fine\n\nfine\n", "Line 2 has no tokens"),
        ("a.txt", "", "has no lines"),
        ("a.jsonl", '"fine"\n{"text": 5}', "a.jsonl:2 is neither"),
        ("a.jsonl", "{", "a.jsonl:1 is not JSON"),
        ("missing/a.txt", None, "cannot be read"),
    ],
)
def test_what_is_refused(
    name: str, content: str | None, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_text(content)
    done = CliRunner().invoke(
        app, ["embed", str(file), "--model", str(tiny_model_dir()), "--embed-any"]
    )
    assert done.exit_code == 1 and not done.stdout
    assert message in done.stderr + capfd.readouterr().err
