"""Engines in forks, and engines that nobody closes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.amount import usually
from tests.models import tiny_model_dir

PROGRAM = """
import gc, os, sys, threading, warnings
import psutil
from budmlx import Engine

warnings.simplefilter("always")
engine = Engine.load(sys.argv[1], engine_host=sys.argv[2])
engine.chat("Hi", max_tokens=2)
uses = [
    lambda: engine.chat("Hi", max_tokens=2),
    lambda: next(engine.stream("Hi")),
    lambda: engine.complete([5], max_tokens=1),
    lambda: engine.count_tokens("Hi"),
    lambda: engine.status(),
    lambda: engine.set_memory_limit(2**30),
]
child = os.fork()
if child == 0:
    for use in uses:
        try:
            use()
        except Exception as error:
            print(type(error).__name__, "fork" in str(error), flush=True)
    engine.close()
    del engine
    gc.collect()
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(engine.chat("Hi", max_tokens=2).usage.completion_tokens)
threads = [each for each in threading.enumerate() if each is not threading.main_thread()]
cores = psutil.Process().children()
print(len(threads) > 0, len(cores))
del engine
gc.collect()
for each in threads:
    each.join()
psutil.wait_procs(cores)
print("gone")
"""


# LIMITS 106 and 122
@pytest.mark.parametrize("host", usually("process".__eq__, ["thread", "process"]))
def test_forks_are_told_and_what_is_dropped_ends(host: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tiny_model_dir()), host],
        capture_output=True,
        text=True,
        timeout=60,
    )
    cores = int(host == "process")
    told = ["EngineClosedError True"] * 6
    assert done.stdout.splitlines() == [*told, "7", "2", f"True {cores}", "gone"], done.stderr
    assert done.stderr.count("was dropped without close()") == 1
    assert done.stderr.count("ResourceWarning") == 1
