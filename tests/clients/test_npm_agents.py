"""Coding agents from npm, launched, do a whole task: a question, a call that reads, an answer.

The model says what scripts say; everything else, prompts and tools included, is the agents' own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clients.server import KEY, ROOT, missing, started

AGENTS = Path(os.environ.get("BUDMLX_CLIENT_VENVS", ROOT / ".venv-clients")) / "npm"
MODEL = """
import sys
from pathlib import Path
from tests.agent_model import DEFAULT, calling, write_agent_model
file = sys.argv[2]
write_agent_model(Path(sys.argv[1]), {
    **DEFAULT,
    "claude": (calling("Read", {"file_path": file}), "It says marmalade, Claude Code found."),
    "codex": (calling("exec_command", {"cmd": "cat notes.txt"}), "Codex found marmalade in it."),
    "opencode": (calling("read", {"filePath": file}), "Marmalade is what opencode found."),
})
"""
TASK = "What is in notes.txt?"


@dataclass(frozen=True, slots=True)
class Place:
    """Where an agent works. url: of the server. folder: has notes.txt. home: is empty at first."""

    url: str
    folder: Path
    home: Path

    def launch(self, agent: str, *arguments: str, **environment: str) -> str:
        """What an agent prints that `budmlx launch` starts. Fails if it does, or is not there."""
        programs = AGENTS / "node_modules" / ".bin"
        if not (programs / agent).exists():
            missing(f"{agent} is missing; make test-clients installs it where npm is")
        own = {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.home),
            "PYTHONPATH": str(ROOT),
            "BUDMLX_BASE_URL": self.url,
            "BUDMLX_API_KEY": KEY,
        }
        python = os.environ.get("BUDMLX_PYTHON", sys.executable)
        done = subprocess.run(
            [python, "-m", "budmlx", "launch", agent, "--", *arguments],
            cwd=self.folder,
            env={**own, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    if not AGENTS.exists():
        missing("there are no agents; make test-clients installs them where npm is")
    path = Path(tempfile.mkdtemp(prefix="budmlx-agents-"))
    folder, home, model = path / "work", path / "home", path / "agent"
    folder.mkdir()
    home.mkdir()
    (folder / "notes.txt").write_text("The word is marmalade.\n")
    subprocess.run(
        [
            os.environ.get("BUDMLX_PYTHON", sys.executable),
            "-c",
            MODEL,
            str(model),
            str(folder / "notes.txt"),
        ],
        cwd=ROOT,
        check=True,
    )
    with started(BUDMLX_MODEL=str(model)) as (url, _):
        yield Place(url, folder, home)
    shutil.rmtree(path)


@pytest.mark.timeout(300)
def test_claude_code(place: Place) -> None:
    said = json.loads(
        place.launch(
            *("claude", "-p", f"script claude; {TASK}", "--output-format", "json"),
            # All of its tools are 20,000 tokens, which take a CPU minutes.
            *("--tools", "Read,Bash", "--allowedTools", "Read"),
            DISABLE_AUTOUPDATER="1",
        )
    )
    assert (said["result"], said["num_turns"]) == ("It says marmalade, Claude Code found.", 2)
    usage = said["usage"]
    # The second turn found the first one's prompt.
    assert usage["cache_read_input_tokens"] > 1000
    assert usage["cache_read_input_tokens"] <= usage["cache_creation_input_tokens"]


@pytest.mark.timeout(300)
def test_codex(place: Place) -> None:
    arguments = ("--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "--json")
    said = place.launch("codex", "exec", *arguments, f"script codex; {TASK}")
    items = [item for line in said.splitlines() if (item := json.loads(line).get("item"))]
    [ran] = {each["id"]: each for each in items if each["type"] == "command_execution"}.values()
    assert ran["aggregated_output"] == "The word is marmalade.\n"
    assert items[-1]["text"] == "Codex found marmalade in it."


@pytest.mark.timeout(300)
def test_opencode(place: Place) -> None:
    said = place.launch(
        *("opencode", "run", f"script opencode; {TASK}"),
        OPENCODE_DISABLE_MODELS_FETCH="1",
        OPENCODE_DISABLE_DEFAULT_PLUGINS="1",
    )
    assert "Marmalade is what opencode found." in said
