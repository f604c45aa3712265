"""The tutorial's package, built and installed into a fresh environment, answers over HTTP."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.amount import usually
from tests.models import tiny_model_dir

ROOT = Path(__file__).parent.parent.parent
TUTORIAL = (ROOT / "docs" / "writing-a-plugin.md").read_text("utf-8")
FILES = ("pyproject.toml", "budmlx_tutorial.py", "budmlx_tutorial_core.py", "test_tutorial.py")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the page shows, each in the block after its name begins a paragraph."""
    path = tmp_path_factory.mktemp("tutorial")
    for name in FILES:
        _, found, rest = TUTORIAL.partition(f"\n`{name}`")
        assert found, name
        block = re.search(r"```(?:toml|python)\n(.*?)```", rest, re.DOTALL)
        assert block is not None
        (path / name).write_text(block[1])
    return path


@pytest.fixture(scope="module")
def python(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the package installed; only dependencies are borrowed."""
    path = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", path], check=True)
    python = path / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True)
    borrowed = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n{ROOT}\n"
    (Path(own.stdout.strip()) / "borrowed.pth").write_text(borrowed)
    install = ["install", "--quiet", "--no-deps", "--no-build-isolation", str(package)]
    pip = [sys.executable, "-m", "pip", "--python", str(python), *install]
    done = subprocess.run(pip, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    return python


def test_its_own_tests_pass(python: Path, package: Path) -> None:
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_tutorial.py"]
    done = subprocess.run(command, cwd=package, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout


def test_it_is_listed(python: Path, tmp_path: Path) -> None:
    command = [python, "-m", "budmlx", "plugins"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=110)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("tutorial")]
    assert line.split()[:3] == ["tutorial", "0.1.0", "installed"]
    assert "core, engine" in line


@pytest.fixture(scope="module", params=usually("process".__eq__, ["process", "thread"]))
def url(
    python: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    model = tiny_model_dir(scale=2.0)
    process = subprocess.Popen(
        [
            python,
            "-m",
            "budmlx",
            "serve",
            model,
            "--port",
            "0",
            "--engine-host",
            request.param,
            "--tool-parser",
            "lines",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path_factory.mktemp("elsewhere"),
        text=True,
    )
    assert process.stdout is not None
    match = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
    assert match is not None
    yield match[0]
    process.kill()
    process.communicate()


def ask(url: str, **fields: Any) -> tuple[int, Any]:
    names = json.load(urllib.request.urlopen(f"{url}/v1/models"))
    body = {"max_tokens": 5, **fields, "model": names["data"][0]["id"]}
    body["messages"] = [{"role": "user", "content": "Hello!"}]
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), headers
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def text(reply: Any) -> str:
    return str(reply["choices"][0]["message"]["content"])


def test_all_of_it_works_over_http(url: str) -> None:
    example = re.search(r"-d '(\{.*?\})'", TUTORIAL, re.DOTALL)
    assert example is not None
    fields = json.loads(example[1])
    asked = {name: fields[name] for name in ("sampler", "logits_processors", "cache")}
    status, first = ask(url, **asked)
    assert status == 200, first
    assert len(set(text(first))) == 1 and first["usage"]["completion_tokens"] == 5
    assert first["cached"] is False
    _, second = ask(url, **asked)
    assert second["cached"] is True and text(second) == text(first)
    _, other = ask(url, sampler={"name": "favourite", "token": 41})
    assert text(other) != text(first)


def test_a_processor_bans_tokens(url: str) -> None:
    processors = [{"name": "forbid", "below": 300}]
    _, banned = ask(url, temperature=0, logits_processors=processors, logprobs=True)
    _, free = ask(url, temperature=0, logprobs=True)
    assert banned["choices"][0]["logprobs"]["content"] != free["choices"][0]["logprobs"]["content"]


def test_wrong_options_are_named(url: str) -> None:
    status, refused = ask(url, sampler={"name": "favourite", "token": -1})
    assert (status, refused["error"]["param"]) == (400, "sampler.token")


def test_its_parser_works_over_http(url: str) -> None:
    examples = re.findall(r"-d '(\{.*?\})'\n```", TUTORIAL, re.DOTALL)
    status, reply = ask(url, **{**json.loads(examples[-1]), "seed": 1})
    assert status == 200, reply
    (choice,) = reply["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls" and call["function"]["name"] == "wave"
    assert json.loads(call["function"]["arguments"])["hand"] in ("left", "right")
