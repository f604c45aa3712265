"""The core's own process: how it loads, what it inherits, when it ends."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import msgspec
import psutil
import pytest

from budmlx.engine.hosts.child import CORE_COMMAND
from budmlx.engine.hosts.core_output import MOST_BYTES
from budmlx.engine.hosts.process import ProcessHost
from budmlx.errors import ModelLoadError
from budmlx.protocol import CoreSettings, FromCore, Hello, LoadFailed
from budmlx.protocol.channel import Channel
from tests.engine.hosts.core_process import PATIENCE, Rows, core_settings, eventually, gone
from tests.models import tiny_model_dir

ROOT = Path(__file__).parents[3]


def test_an_unusable_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"config\.json|directory"):
        ProcessHost(CoreSettings(model_path=str(tmp_path), model_name="x"), Rows())
    assert psutil.Process().children() == []


@pytest.mark.parametrize(
    ("code", "says"),
    [("raise SystemExit(3)", "status 3"), ("import os; os.abort()", "signal 6")],
)
def test_a_core_that_ends_while_it_loads_is_reported(code: str, says: str) -> None:
    with pytest.raises(ModelLoadError, match=says):
        ProcessHost(core_settings(), Rows(), command=(sys.executable, "-c", code))


WORDS = r"""
import faulthandler, os
faulthandler.enable()
print("printed", flush=True)
os.write(2, b"\xffraw\r 50%\r\n" + b"x" * 5000 + b"\nnot ended")
os.write(2, b"\n")
os.abort()
"""


# LIMITS 137
def test_what_a_core_writes_beside_its_log_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ModelLoadError, match="in the log"):
        ProcessHost(core_settings(), Rows(), command=(sys.executable, "-c", WORDS))
    said = [(each.levelname, each.message) for each in caplog.records]
    assert {each.name for each in caplog.records} == {"budmlx.engine.hosts.core_output"}
    assert said[:3] == [("WARNING", each) for each in ("printed", r"\xffraw", " 50%")]
    rest = 5000 - MOST_BYTES
    assert [message for _, message in said[3:6]] == ["x" * MOST_BYTES, "x" * rest, "not ended"]
    assert said[6] == ("ERROR", "Fatal Python error: Aborted") and len(said) > 8
    assert {level for level, _ in said[6:]} == {"ERROR"}, "so is the place in the code"


def test_the_log_of_a_core_is_left_as_it_is(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    code = "import os, sys; os.write(int(sys.argv[3]), b'a line of the log\\n')"
    settings = msgspec.structs.replace(core_settings(), log_level="info")
    with pytest.raises(ModelLoadError, match="status 0"):
        ProcessHost(settings, Rows(), command=(sys.executable, "-c", code))
    assert capfd.readouterr().err == "a line of the log\n" and not caplog.records


def test_a_core_that_cannot_be_started_is_reported() -> None:
    with pytest.raises(ModelLoadError, match="could not be started"):
        ProcessHost(core_settings(), Rows(), command=("/nonexistent/python",))


def test_the_core_refuses_another_protocol() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        descriptor = theirs.fileno()
        core = subprocess.Popen(
            [*CORE_COMMAND, str(descriptor)],
            pass_fds=(descriptor,),
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    channel: Channel[FromCore] = Channel(ours, FromCore)
    channel.send(Hello(version=999, settings=core_settings()))
    answer = channel.receive(PATIENCE)
    assert isinstance(answer, LoadFailed)
    assert "Restart" in answer.message
    assert core.wait(PATIENCE) == 0
    channel.close()


SCRIPT = """
    import os, sys, threading
    sys.path.append({root!r})
    from budmlx.engine.hosts.process import ProcessHost
    from budmlx.protocol import CoreSettings, GenerateRequest
    from budmlx.types import SamplingParams

    print("imported", flush=True)
    seen = threading.Event()
    settings = CoreSettings(model_path={model!r}, model_name="tiny")
    host = ProcessHost(settings, lambda frame: frame.tokens and seen.set())
    host.submit(GenerateRequest(id=1, prompt_ids=[1], sampling=SamplingParams(temperature=0),
                                seed=1, max_tokens=8000, stop_ids=[]))
    assert seen.wait(60)
"""


def script(tmp_path: Path, ending: str) -> list[str]:
    """A program that leaves a row running and then does `ending`."""
    text = textwrap.dedent(SCRIPT).format(root=str(ROOT), model=str(tiny_model_dir()))
    path = tmp_path / "program.py"
    path.write_text(text + textwrap.dedent(ending))
    return [sys.executable, str(path)]


def test_the_parent_is_free_of_mlx_and_ends_without_close(tmp_path: Path) -> None:
    # A file of the working directory must not be taken for a module by the core.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mlx.py").write_text("raise RuntimeError('not this one')")
    ending = "print(*(name for name in sys.modules if name.split('.')[0] in ('mlx', 'mlx_lm')))"
    done = subprocess.run(
        script(tmp_path, ending), cwd=elsewhere, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.stdout == "imported\n\n"
    assert done.stderr == ""
    assert done.returncode == 0


def test_closed_standard_streams_do_no_harm(tmp_path: Path) -> None:
    # LIMITS 121
    command = shlex.join(script(tmp_path, "host.close()"))
    done = subprocess.run(["/bin/sh", "-c", f"exec {command} >&- 2>&-"], timeout=PATIENCE)
    assert done.returncode == 0


@pytest.mark.parametrize("fork", [False, True])
def test_no_core_outlives_a_killed_parent(tmp_path: Path, fork: bool) -> None:
    # LIMITS 123
    fork_line = "if os.fork() == 0: threading.Event().wait()" if fork else ""
    ending = f"{fork_line}\nprint('running', flush=True)\nthreading.Event().wait()"
    parent = subprocess.Popen(script(tmp_path, ending), stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        assert [parent.stdout.readline() for _ in range(2)] == ["imported\n", "running\n"]
        family = psutil.Process(parent.pid).children(recursive=True)
        (core,) = [process for process in family if "budmlx.core" in process.cmdline()]
        parent.kill()
        parent.wait()
        try:
            eventually(lambda: gone(core))
        finally:
            for process in family:
                if not gone(process):
                    process.kill()
