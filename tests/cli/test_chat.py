"""`budmlx chat`, from a pipe and in a terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from budmlx.cli.app import app
from budmlx.cli.chat import Conversation
from budmlx.engine.engine import Engine
from tests.models import tiny_model_dir

SAMPLING = {"max_tokens": 6, "temperature": 0.0}
FLAGS = ["--max-tokens", "6", "--temperature", "0"]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load(tiny_model_dir()) as engine:
        yield engine


@pytest.fixture(autouse=True)
def no_user_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))


def test_a_pipe_gets_replies_on_stdout_and_the_rest_on_stderr(engine: Engine) -> None:
    first = engine.chat("Hello", **SAMPLING).text
    turns = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "And now?"},
    ]
    second = engine.chat(turns, **SAMPLING).text
    lines = "Hello\n\nAnd now?\n/help\n/what\n/exit\nnever read\n"
    result = CliRunner().invoke(app, ["chat", str(tiny_model_dir()), *FLAGS], input=lines)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{first}\n{second}\n"
    assert "/reset" in result.stderr
    assert "There is no command /what" in result.stderr


def test_reset_and_system_change_what_the_model_sees(engine: Engine) -> None:
    conversation = Conversation(engine, SAMPLING)
    conversation.answer("one")
    conversation.run_command("/reset", "")
    conversation.run_command("/system", "Be brief.")
    conversation.answer("two")
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "two"}]
    assert [turn.role for turn in conversation.turns] == ["user", "assistant"]
    assert conversation.turns[-1].text == engine.chat(asked, **SAMPLING).text
    conversation.run_command("/system", "")
    assert conversation.system == ""


def test_readline_may_be_missing() -> None:
    code = "import sys; sys.modules['readline'] = None; import budmlx.cli.chat; print('imported')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "imported\n", done.stderr


def test_a_failed_turn_is_taken_back(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    conversation = Conversation(engine, SAMPLING)
    conversation.answer("x " * engine.info.context_length)
    assert conversation.turns == []
    assert "/reset starts over" in capsys.readouterr().err
    conversation.answer("\udcff")
    assert conversation.turns == []
    conversation.answer("fine")
    assert len(conversation.turns) == 2


# Make stdin the controlling terminal, so that Ctrl-C becomes a signal, then become a command.
BECOME = """
import os, sys
os.close(os.open(os.ttyname(0), os.O_RDWR))
os.execv(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    """A command in a pseudo-terminal."""

    def __init__(self, *arguments: str):
        self._fd, child_end = pty.openpty()
        command = [sys.executable, "-m", "budmlx", *arguments]
        self.process = subprocess.Popen(
            [sys.executable, "-c", BECOME, *command],
            stdin=child_end,
            stdout=child_end,
            stderr=child_end,
            start_new_session=True,
        )
        os.close(child_end)
        self._seen = ""

    def send(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def expect(self, pattern: str, seconds: float = 60.0) -> None:
        """Read until the pattern comes; forget everything up to its end."""
        deadline = time.monotonic() + seconds
        while not (match := re.search(pattern, self._seen)):
            ready, _, _ = select.select([self._fd], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{pattern!r} did not come; last: {self._seen[-300:]!r}"
            self._seen += os.read(self._fd, 4096).decode("utf-8", "replace")
        self._seen = self._seen[match.end() :]

    def expect_reading(self) -> None:
        """Wait until the command waits for a key.

        Before, the terminal would echo keys by itself, and Ctrl-C would wait for the next key:
        Python looks at signals only when they end its waiting.
        """
        while termios.tcgetattr(self._fd)[3] & termios.ICANON:
            time.sleep(0.01)
        command, quiet = psutil.Process(self.process.pid), 0
        while quiet < 5:
            time.sleep(0.02)
            quiet = quiet + 1 if command.status() == psutil.STATUS_SLEEPING else 0

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._fd)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal("chat", str(tiny_model_dir()), "--temperature", "0")
    yield terminal
    terminal.close()


def test_keys_in_a_terminal(terminal: Terminal) -> None:
    terminal.expect("Ctrl-D leaves")
    terminal.expect("> ")
    terminal.expect_reading()
    terminal.send("half a line")
    terminal.expect("half a line")
    terminal.expect_reading()
    terminal.send("\x03")
    terminal.expect(r"\(Ctrl-D leaves\.\)\r\n")
    terminal.expect("> ")
    terminal.expect_reading()
    terminal.send("Tell me a story\n")
    terminal.expect(r"(?s)story\r\n.{20}")
    terminal.send("\x03")
    terminal.expect("Stopped.")
    terminal.expect("> ")
    terminal.expect_reading()
    terminal.send("\x04")
    assert terminal.process.wait(30) == 0
