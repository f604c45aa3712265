"""The requests of a file, answered without a server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from budmlx import Engine
from budmlx.errors import BudmlxError, InvalidRequestError
from tests.models import tiny_model_dir

CHAT = "/v1/chat/completions"


def line(number: int, **body: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"hi {number}"}]
    whole = {"model": "any", "messages": messages, "max_tokens": 6, "temperature": 0, **body}
    return {"custom_id": str(number), "method": "POST", "url": CHAT, "body": whole}


def written(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in lines))
    return path


def replies(path: Path) -> dict[str, Any]:
    entries = [json.loads(each) for each in path.read_text().splitlines()]
    assert len({entry["custom_id"] for entry in entries}) == len(entries)
    return {entry["custom_id"]: entry["response"] for entry in entries}


def text(reply: Any) -> str | None:
    choices = reply["body"].get("choices")
    return choices[0]["message"]["content"] if choices else None


@pytest.fixture(scope="module")
def engine() -> Any:
    with Engine.load(tiny_model_dir(scale=2.0), engine_host="thread") as engine:
        yield engine


def test_replies_are_those_of_chats_and_what_is_done_is_not_done_again(
    engine: Engine, tmp_path: Path
) -> None:
    source = written(tmp_path / "in", [*map(line, range(8)), line(8, stream=True)])
    output, told = tmp_path / "out", list[tuple[int, int]]()
    counts = engine.batch(source, output, progress=lambda *now: told.append(now))
    assert counts == (9, 8, 1) and told[0] == (0, 9) and told[-1] == (9, 9)
    found = replies(output)
    assert found["8"]["status_code"] == 400
    for number in range(8):
        want = engine.chat(f"hi {number}", max_tokens=6, temperature=0).text
        assert text(found[str(number)]) == want
    whole = output.read_bytes().splitlines(keepends=True)
    output.write_bytes(b"".join(whole[:4]) + whole[4][:25])  # as a kill leaves it
    assert engine.batch(source, output, progress=lambda *now: told.append(now)) == (9, 8, 1)
    assert (4, 9) in told[10:]
    assert {key: text(reply) for key, reply in replies(output).items()} == {
        key: text(reply) for key, reply in found.items()
    }


def test_a_wrong_line_is_named_before_any_is_answered(engine: Engine, tmp_path: Path) -> None:
    output = tmp_path / "out"
    source = written(tmp_path / "in", [line(1), {**line(2), "method": "GET"}])
    with pytest.raises(InvalidRequestError, match="in:2: `method` must be POST") as wrong:
        engine.batch(source, output, progress=False)
    assert wrong.value.param == "method" and not output.exists()
    with pytest.raises(InvalidRequestError, match="in:1: `url` must be one of"):
        engine.batch(written(source, [{**line(1), "url": "/x"}]), output, progress=False)
    with pytest.raises(BudmlxError, match="none"):
        engine.batch(tmp_path / "none", output, progress=False)
    with pytest.raises(InvalidRequestError, match="no reply"):
        engine.batch(written(source, [line(1)]), written(output, [1]), progress=False)


def test_the_command_goes_on_after_a_kill(tmp_path: Path) -> None:
    source = written(tmp_path / "in.jsonl", [line(n, max_tokens=24) for n in range(60)])
    output = tmp_path / "out.jsonl"
    model = str(tiny_model_dir(scale=2.0))
    command = [sys.executable, "-m", "budmlx", "batch", "run", str(source), "-o", str(output)]
    command += ["--model", model, "--max-rows", "2"]
    environment = {**os.environ, "BUDMLX_WARMUP": "off"}
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)
    while first.poll() is None and (not output.exists() or output.stat().st_size < 1000):
        time.sleep(0.01)
    first.kill()
    first.wait()
    assert 0 < len(output.read_bytes().splitlines()) < 60
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    assert "60 of 60 answered, 0 failed." in done.stderr
    assert set(replies(output)) == set(map(str, range(60)))
