"""What a run of the tests that ignores signals hands on to the programs that it starts."""

from __future__ import annotations

import subprocess
import sys

RUN = """
import os, signal, subprocess, sys
import tests.conftest
os.kill(os.getpid(), signal.SIGHUP)
subprocess.run([sys.executable, "-c", sys.argv[1]])
"""
PROGRAM = """
import signal
print([signal.getsignal(number).name for number in (signal.SIGHUP, signal.SIGTERM)])
"""


def test_under_nohup_programs_start_with_the_default_and_the_run_survives_a_hangup() -> None:
    command = ["nohup", sys.executable, "-c", RUN, PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "['SIG_DFL', 'SIG_DFL']\n")
