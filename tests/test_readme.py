"""The README's examples run, and its lists are complete."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from budmlx.config import Config
from budmlx.server.dialects.openai.chat_request import ChatRequest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
ADDRESS = "http://127.0.0.1:8080"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "budmlx", "serve", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    match = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
    assert match is not None
    yield match[0]
    process.kill()
    process.communicate()


def test_the_two_commands_are_on_the_first_screen() -> None:
    first_screen = README.splitlines()[:24]
    assert "make run" in "".join(first_screen)
    assert "make test" in "".join(first_screen)
    assert "curl" in "".join(first_screen)


def test_curl_line_gets_an_answer(url: str) -> None:
    (command,) = [block for block in blocks("sh") if block.startswith("curl")]
    done = subprocess.run(
        ["bash", "-c", command.replace(ADDRESS, url)], capture_output=True, text=True, timeout=110
    )
    assert '"finish_reason":"' in done.stdout.replace(" ", "")
    assert '"error"' not in done.stdout


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_python_examples_run(url: str, number: int, tmp_path: Path) -> None:
    code = blocks("python")[number].replace(ADDRESS, url)
    command = [sys.executable, "-c", code]
    # What an example writes goes elsewhere.
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_every_request_parameter_is_listed() -> None:
    missing = [name for name in ChatRequest.model_fields if f"`{name}`" not in README]
    assert not missing


def test_settings_that_the_readme_names_exist() -> None:
    flags = re.findall(r"--([a-z][a-z-]+)", README)
    known = {name.replace("_", "-") for name in Config.model_fields}
    other = {"strict", "seed", "config", "print-config", "debug", "hf-path", "mlx-path", "help"}
    other |= {"hook"}
    assert set(flags) <= known | other
