"""A rank that is started by hand, before the server, over TLS and with a secret in a file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from bench.fronts import free_ports
from budmlx.cli.app import app
from budmlx.engine.engine import Engine
from tests.engine.hosts.core_process import eventually
from tests.engine.test_ranks import ask_all, directory, said
from tests.machines.proxy import Proxies

pytestmark = [pytest.mark.machines, pytest.mark.timeout(300)]


@pytest.fixture
def settings(hostfile: Callable[..., Path], tmp_path: Path) -> dict[str, object]:
    """Of a server whose second machine is started by hand."""
    made = CliRunner().invoke(app, ["cert", "--directory", str(tmp_path)])
    assert made.exit_code == 0, made.output
    token = tmp_path / "token"
    token.write_text("a secret that only we know\n")
    hosts = [{"ips": ["127.0.0.1"]}, {"ips": ["127.0.0.1"]}]
    return {
        "machines": hostfile(hosts=hosts),
        "join_port": free_ports(1)[0],
        "join_token": token,
        "tls_cert": tmp_path / "cert.pem",
        "tls_key": tmp_path / "key.pem",
    }


def rank(*words: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "BUDMLX_DEVICE": "cpu"}
    command = [sys.executable, "-m", "budmlx", "rank", *words]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)


def test_ranks_wait_for_one_server_after_the_other(
    settings: dict[str, object], tmp_path: Path
) -> None:
    flags = [word for name, value in settings.items() for word in (_flag(name), str(value))]
    printed = CliRunner().invoke(app, ["serve", directory("llama"), *flags, "--print-command"])
    assert printed.exit_code == 0, printed.output
    words = printed.output.split()
    digest = words[words.index("--tls-digest") + 1]
    assert "--token-file -" in printed.output and "secret" not in printed.output
    wrong = tmp_path / "wrong"
    wrong.write_text("a secret that nobody knows")
    address = f"127.0.0.1:{settings['join_port']}"
    tls = ("--tls-digest", digest)
    stranger = rank("--join", address, "--token-file", str(wrong), "--once", *tls)
    plain = rank("--join", address, "--token-file", str(settings["join_token"]), "--once")
    own = rank("--join", address, "--token-file", str(settings["join_token"]), *tls)
    with ExitStack() as ending:
        for process in (stranger, plain, own):
            ending.enter_context(process)
            ending.callback(process.kill)
        path = directory("llama")
        with Engine.load(path, engine_host="thread", warmup="off") as engine:
            expected = said(ask_all(engine))
        for _ in range(2):
            options = {**settings, "engine_host": "process", "warmup": "off"}
            with Engine.load(path, **options) as engine:  # type: ignore[arg-type]
                assert said(ask_all(engine)) == expected
        for process, says in ((stranger, "does not know the secret"), (plain, "expects TLS")):
            assert process.stderr is not None
            assert says in process.stderr.read().decode()
        eventually(lambda: not psutil.Process(own.pid).children())


def test_a_link_that_says_nothing_more_is_noticed_on_both_sides(
    settings: dict[str, object],
) -> None:
    del settings["tls_cert"], settings["tls_key"]
    path, proxies = directory("llama"), Proxies()
    address = proxies.to(f"127.0.0.1:{settings['join_port']}")
    own = rank("--join", address, "--token-file", str(settings["join_token"]), "--rank", "1")
    with ExitStack() as ending:
        ending.callback(proxies.close)
        ending.enter_context(own)
        ending.callback(own.kill)
        options = {**settings, "engine_host": "process", "warmup": "off", "watchdog_seconds": 5.0}
        with Engine.load(path, **options) as engine:  # type: ignore[arg-type]
            before = engine.chat("Hello", max_tokens=20, temperature=0.0).text
            (core,) = psutil.Process(own.pid).children()
            proxies.stall()
            eventually(lambda: "rank 1 (127.0.0.1) of 2 is stopped" in engine.status().reason)
            eventually(lambda: not core.is_running())
            eventually(lambda: engine.status().ready)
            assert engine.chat("Hello", max_tokens=20, temperature=0.0).text == before
            assert engine.status().restarts == 1


def test_a_hostfile_that_is_wrong_is_refused(hostfile: Callable[..., Path]) -> None:
    for wrong, says in (
        ({"hosts": [{"ips": ["127.0.0.1"]}]}, "two of them"),
        ({"hosts": [{"ips": ["127.0.0.1"]}, {"ssh": "b"}]}, "machine 1 has no address"),
        ({"backend": "mpi"}, "ring or jaccl"),
        ({"envs": "A=b"}, "NAME=VALUE"),
    ):
        path = hostfile(**wrong)
        done = CliRunner().invoke(app, ["serve", "--machines", str(path), "--print-command"])
        assert done.exit_code == 1
        assert says in str(done.output) + json.dumps(done.stderr)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
