"""The documented code of the clients runs, against a server of its own.

Those of cerebras and atoma run where the packages are: in tests/clients, by make test-clients.
"""

from __future__ import annotations

import ast
import runpy
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from PIL import Image, ImageDraw

from tests import beezy_wire
from tests.clients.server import EXAMPLES, KEY, ROOT, served, started
from tests.models import tiny_model_dir

VISION = EXAMPLES / "budai" / "vision.py"
BUDAI = sorted({*(EXAMPLES / "budai").glob("*.py")} - {VISION})
LLAVA = ROOT / "plugins" / "budmlx-llava"
SHOWN = {
    "event_handling": "\n\nFinish reason: ",
    "function_calling": "Function: get_weather\nArguments: {",
    "caching": "True\n",
}
SILENT = {
    "parameters", "response_object", "temperature", "top_p", "penalties", "batch", "stop",
    "logit_bias", "errors",
}  # fmt: skip


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served() as url:
        yield url


def run(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    runpy.run_path(str(path), run_name="__main__")
    return capsys.readouterr().out


@pytest.mark.parametrize("path", BUDAI, ids=lambda path: path.stem)
def test_budai(
    url: str, path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(ROOT / "plugins" / "budai")
    monkeypatch.setenv("BUD_BASE_URL", url)
    shown = run(path, capsys)
    assert SHOWN.get(path.stem, "") in shown
    assert bool(shown.strip()) is (path.stem not in SILENT)


def test_a_model_that_does_not_see_says_so(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "plugins" / "budai")
    monkeypatch.setenv("BUD_BASE_URL", url)
    with pytest.raises(Exception, match="takes text only") as caught:
        runpy.run_path(str(VISION))
    assert getattr(caught.value, "status_code", None) == 400


class RedCircle(BaseHTTPRequestHandler):
    """A server of one picture."""

    def do_GET(self) -> None:
        image = Image.new("RGB", (96, 96), "white")
        ImageDraw.Draw(image).ellipse((20, 20, 76, 76), fill="red")
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.end_headers()
        image.save(self.wfile, "PNG")

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


def test_a_model_that_sees_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "plugins" / "budai")
    pictures = HTTPServer(("127.0.0.1", 0), RedCircle)
    Thread(target=pictures.serve_forever, daemon=True).start()
    host = f"127.0.0.1:{pictures.server_port}"
    settings = {
        "BUDMLX_MODEL": str(LLAVA / "budmlx_llava" / "assets" / "tiny"),
        "BUDMLX_ALIAS": "llava-1.6",
        "BUDMLX_PLUGIN": "budmlx_llava",
        "BUDMLX_IMAGE_HOST": host,
        "PYTHONPATH": str(LLAVA),
    }
    with started(**settings) as (url, _):
        monkeypatch.setenv("BUD_BASE_URL", url)
        code = VISION.read_text("utf-8").replace("https://example.com", f"http://{host}")
        names: dict[str, Any] = {}
        exec(compile(code, str(VISION), "exec"), names)
    pictures.shutdown()
    pictures.server_close()
    assert names["response"].choices[0].message.content == "A red circle."


@pytest.mark.parametrize("name", ["create", "stream"])
def test_beezy(
    url: str, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "beezy_ai", beezy_wire)
    monkeypatch.setenv("API_SERVER_URL", f"{url}/v1")
    monkeypatch.setenv("API_KEY_AUTH", KEY)
    assert bool(run(EXAMPLES / "beezy" / f"{name}.py", capsys)) is (name == "stream")


def test_every_example_runs_somewhere() -> None:
    found = {path.relative_to(EXAMPLES).parts[0] for path in EXAMPLES.rglob("*.py")}
    assert found == {"budai", "beezy", "cerebras", "atoma"}
    assert {p.stem for p in (EXAMPLES / "beezy").glob("*.py")} == {"create", "stream"}
    for name in ("cerebras", "atoma"):
        text = (ROOT / "tests" / "clients" / f"test_{name}_package.py").read_text("utf-8")
        assert f'(EXAMPLES / "{name}").glob("*.py")' in text
    for path in EXAMPLES.rglob("*.py"):
        assert path.read_text("utf-8").startswith("# ") and ast.parse(path.read_text("utf-8"))


def test_search_finds_sections_and_keeps_their_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    docs, cache = tmp_path / "docs", tmp_path / "cache"
    docs.mkdir()
    cache.mkdir()
    (docs / "a.md").write_text("# Foxes\n\nThe fox jumps.\n\n## Dogs\n\nThe dog is lazy.\n")
    path = EXAMPLES.parent / "search" / "search.py"
    question = "Foxes\nThe fox jumps."
    model = str(tiny_model_dir())
    arguments = ["search", str(docs), question, "--model", model, "--cache", str(cache)]
    monkeypatch.setattr(sys, "argv", [*arguments, "--results", "1"])
    first = run(path, capsys)
    assert first.startswith("1.00  ") and "a.md: Foxes\n" in first and "Dogs" not in first
    kept = (cache / "search.npz").stat().st_mtime_ns
    assert run(path, capsys) == first
    assert (cache / "search.npz").stat().st_mtime_ns == kept
