"""The code of the documentation works.

How a code block is tested follows from its language, and from the note before it:

- `python`: all blocks of a page run one after the other, as one program.
- `sh` that begins with `curl` runs against a server with the demo model, and must get no error;
  with the note `run` other shell code runs, too. `test_commands` checks the rest.
- `json` is the body of a chat, which the server must accept without a warning. With the note
  `fields` it is a part of one, with the note `response_format` each line is one.
- `toml` is a configuration file, `xml` a job of launchd.
- `file: NAME` is written for the code after it to find; `not run: REASON` is neither run nor read.
"""

from __future__ import annotations

import json
import plistlib
import re
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from budmlx import Engine
from budmlx.cli.app import load
from budmlx.config.sources import load_config
from budmlx.server.dialects.anthropic.body import MessagesRequest
from budmlx.server.dialects.ollama.chat import OllamaChat
from budmlx.server.dialects.openai.chat import ChatRequest
from tests.docs.conftest import here
from tests.docs.pages import DOCS, Block, blocks, guides, name
from tests.docs.shell import bodies

ELSEWHERE = {DOCS / "hooks.md", DOCS / "writing-a-plugin.md"}
"""Signatures of hooks; the tutorial, whose package test_tutorial of the plugins builds and runs."""

BLOCKS = [
    block
    for page in guides()
    if page not in ELSEWHERE
    for block in blocks(page)
    if not block.note.startswith("not run: ")
]
PAGES = sorted({block.page for block in BLOCKS if block.language == "python"})
MESSAGES = [{"role": "user", "content": "Hello!"}]
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}


def of(language: str, *notes: str) -> list[Block]:
    """The blocks of a language that have one of these notes."""
    return [block for block in BLOCKS if block.language == language and block.note in notes]


def write_files(page: Path, directory: Path) -> None:
    """Write what a page shows as files."""
    for block in BLOCKS:
        if block.page == page and block.note.startswith("file: "):
            (directory / block.note.removeprefix("file: ")).write_text(block.text)


CURL = [block for block in of("sh", "") if block.text.startswith("curl")]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_code_of(
    page: Path, url: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    write_files(page, workplace)
    try:
        for block in of("python", ""):
            if block.page == page:
                # Errors shall name the line of the page.
                code = "\n" * (block.line - 1) + here(block.text, url)
                exec(compile(code, str(page), "exec"), names)
    finally:
        for value in names.values():
            if isinstance(value, Engine):
                value.close()
    assert capsys.readouterr().out.strip(), "the code of a page shows something"


@pytest.mark.parametrize("block", CURL, ids=str)
def test_curl(block: Block, url: str) -> None:
    script = here(block.text, url)
    done = subprocess.run(["bash", "-ec", script], capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    # A response has a field of this name, which is null.
    assert done.stdout and not re.search(r'"error": *[^n]', done.stdout)


@pytest.mark.parametrize("block", of("sh", "run"), ids=str)
def test_shell_code(block: Block, url: str, workplace: Path, environment: dict[str, str]) -> None:
    write_files(block.page, workplace)
    done = subprocess.run(
        ["bash", "-ec", here(block.text, url)],
        cwd=workplace,
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("block", of("json", "", "fields"), ids=str)
def test_bodies(block: Block, url: str) -> None:
    body = json.loads(block.text)
    if block.note == "fields":
        body = {"model": "demo", "messages": MESSAGES, **body}
        if "tool_choice" in body or "parallel_tool_calls" in body:
            body.setdefault("tools", [TOOL])
    check(body, url)


@pytest.mark.parametrize("block", of("json", "response_format"), ids=str)
def test_response_formats(block: Block, url: str) -> None:
    for line in block.text.splitlines():
        check({"model": "demo", "messages": MESSAGES, "response_format": json.loads(line)}, url)


SENT = [
    (block, body)
    for block in CURL
    for body in bodies(block.text)
    if '"messages"' in body and '"requests"' not in body
]


BODIES = {"/api/chat": OllamaChat, "/v1/messages": MessagesRequest}


@pytest.mark.parametrize(("block", "body"), SENT, ids=[str(block) for block, _ in SENT])
def test_bodies_of_curl(block: Block, body: str) -> None:
    others = [kind for path, kind in BODIES.items() if path in block.text]
    kind = others[0] if others else ChatRequest
    assert kind.parse(json.loads(body)).review(strict=True, streaming=True) == []


def check(body: dict[str, Any], url: str) -> None:
    """Whether the server takes a body and nothing in it is without effect."""
    chat = ChatRequest.parse(body)
    assert chat.review(strict=True, streaming=bool(chat.stream)) == []
    body = {**body, "max_tokens": min(body.get("max_tokens", 20), 20), "stream": False}
    body.pop("stream_options", None)
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        reply = json.load(response)
    assert reply["choices"] and not reply.get("warnings")


@pytest.mark.parametrize("block", of("toml", ""), ids=str)
def test_configuration_files(block: Block, workplace: Path) -> None:
    file = workplace / "config.toml"
    file.write_text(block.text)
    assert load_config({}, file).places


@pytest.mark.parametrize("block", of("xml", ""), ids=str)
def test_jobs_of_launchd(block: Block) -> None:
    job = plistlib.loads(block.text.encode())
    _, _, command, *words = job["ProgramArguments"]
    assert command.endswith("/bin/budmlx")
    load(words[0]).make_context(words[0], words[1:])


def test_every_block_is_tested() -> None:
    known = {"": {"text"}, "run": {"sh"}, "fields": {"json"}, "response_format": {"json"}}
    for block in BLOCKS:
        if not block.note.startswith("file: "):
            allowed = known[block.note] | (
                {"python", "sh", "json", "toml", "xml"} if not block.note else set()
            )
            assert block.language in allowed, f"{block}: {block.language}, {block.note!r}"


@pytest.mark.skipif(not (DOCS / "parameters.md").exists(), reason="it lists most of them")
def test_every_request_parameter_is_documented() -> None:
    text = "".join(page.read_text("utf-8") for page in guides())
    assert not [field for field in ChatRequest.model_fields if f"`{field}`" not in text]
