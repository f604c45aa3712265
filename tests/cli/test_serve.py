"""`budmlx serve` as a process: what it says first, and how it ends."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import resource
import shlex
import signal
import socket
import subprocess
import sys
import termios
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from budmlx.cli.app import app
from budmlx.cli.serve import example
from budmlx.config import Config
from tests.models import tiny_model_dir


@pytest.fixture(autouse=True)
def no_user_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def server() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "budmlx", "serve", str(tiny_model_dir()), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


def test_first_line_can_be_pasted_and_sigterm_ends_well(server: subprocess.Popen[str]) -> None:
    assert server.stdout is not None
    line = server.stdout.readline()
    address, _, command = line.partition(" Try: ")
    assert address.startswith(f"{tiny_model_dir().name} is served at http://127.0.0.1:")
    words = shlex.split(command)
    body = words[words.index("-d") + 1]
    request = urllib.request.Request(
        words[1], body.encode(), dict([words[words.index("-H") + 1].split(": ")])
    )
    with urllib.request.urlopen(request, timeout=110) as response:
        reply = json.load(response)
    assert reply["model"] == tiny_model_dir().name
    assert reply["usage"]["completion_tokens"] > 0
    server.send_signal(signal.SIGTERM)
    assert server.wait(30) == 0
    said = server.communicate()[1]
    assert "Loaded in" in said
    assert re.search(
        r"^Memory: at most [\d.]+ GiB, of which the weights take [\d.]+ [KM]iB", said, re.M
    )
    assert re.search("^Chosen for this device: backend [a-z]+, .*prefill_chunk [0-9]+", said, re.M)
    *_, received, ended, stopped = said.splitlines()
    assert (
        "SIGTERM received: shutting down. Requests: 0; rows that run: 0, and wait: 0." in received
    )
    assert re.search(r"All requests have ended after \d+\.\d s, 0 of them before", ended)
    assert stopped.endswith("budmlx.cli.serve: Stopped")


def test_a_second_signal_is_told_and_stacks_are_shown(server: subprocess.Popen[str]) -> None:
    assert server.stdout is not None and server.stderr is not None
    words = shlex.split(server.stdout.readline().partition(" Try: ")[2])
    body = json.loads(words[words.index("-d") + 1])
    body |= {"stream": True, "max_tokens": 1500, "n": 2, "min_tokens": 1500}
    request = urllib.request.Request(
        words[1], json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    said = ""

    def read_to(*ends: str) -> None:
        nonlocal said
        while not all(end in said for end in ends):
            line = server.stderr.readline()  # type: ignore[union-attr]
            assert line, said
            said += line

    (core,) = psutil.Process(server.pid).children()
    for each in (server.pid, core.pid):
        said = ""
        os.kill(each, signal.SIGUSR1)
        read_to("Current thread", "__main__.py")
    framed = r"^\d{4}-\d\d-\d\d [\d:,]+ WARNING budmlx\.engine\.hosts\.core_output: Current thread"
    assert re.search(framed, said, re.M)
    with urllib.request.urlopen(request, timeout=110) as response:
        response.readline()
        server.send_signal(signal.SIGTERM)
        read_to("SIGTERM received: shutting down. Requests: 1; rows that run: 2, and wait: 0.")
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == -signal.SIGTERM
    read_to("SIGTERM received again: ended at once; requests that are lost: 1")
    psutil.wait_procs([core], timeout=30)
    assert not core.is_running()


def test_a_terminal_that_closes_ends_it_well() -> None:  # LIMITS 119
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "budmlx", "serve", str(tiny_model_dir()), "--port", "0"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    said = b""
    while b"max_tokens" not in said or not said.endswith(b"\n"):
        said += os.read(ours, 4096)
    os.close(ours)
    assert process.wait(30) == 0


@pytest.mark.parametrize("streams", [">/dev/full 2>/dev/full", ">&- 2>&-"])
def test_a_log_that_takes_nothing_keeps_no_server_down(streams: str) -> None:  # LIMITS 121
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "budmlx", "serve", str(tiny_model_dir()), "--port", str(port)]
    process = subprocess.Popen(["/bin/sh", "-c", f"exec {shlex.join(command)} {streams}"])
    try:
        while True:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/ready"):
                break
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        process.terminate()
    assert process.wait(30) == 0


def test_too_few_open_files_are_logged(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "budmlx", "serve", str(tmp_path / "nothing")],
        capture_output=True,
        text=True,
        timeout=110,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (200, 300)),
    )
    said = "The system allows 300 open files, so at most 236 connections instead of 1024 are open"
    assert said in done.stderr


def test_port_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-m", "budmlx", "serve", str(tiny_model_dir()), "--port", port],
            capture_output=True,
            text=True,
            timeout=110,
        )
    assert done.returncode == 1
    assert f"127.0.0.1:{port} is in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_open_bind_without_key_is_refused_before_loading() -> None:
    result = CliRunner().invoke(app, ["serve", "no/such", "--host", "0.0.0.0"])
    assert result.exit_code == 1
    assert "BUDMLX_API_KEYS" in result.stderr


def test_example_asks_for_the_key_without_showing_it() -> None:
    config = Config.of(api_keys="hunter2")
    command = example("http://127.0.0.1:1", "it's", config)
    words = shlex.split(command)
    assert "Authorization: Bearer YOUR_KEY" in words
    assert "hunter2" not in command
    assert json.loads(words[-1])["model"] == "it's"
