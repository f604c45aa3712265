"""A model over two ranks: the openai package streams while one of them is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.clients.server import KEY, ROOT, needed, started

openai = needed("openai")
pytestmark = [pytest.mark.machines, pytest.mark.timeout(600)]

STREAMS = 8
PATIENCE = 100.0
_MODEL = """
import shutil, sys
from tests.core.architectures import ARCHITECTURES
from tests.models import tiny_model_dir
shutil.copytree(tiny_model_dir(ARCHITECTURES["llama"], scale=3.0), sys.argv[1])
"""


class Client:
    """Streams of one server. begun: the numbers of those that have said something."""

    def __init__(self, sdk: Any):
        self._sdk = sdk
        self.begun: set[int] = set()

    def ask(self, number: int) -> str:
        """The text of a whole stream. Even numbers are greedy, odd ones seeded."""
        text, reason = "", None
        with self._sdk.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": f"Tell me {number}."}],
            max_tokens=200,
            temperature=number % 2,
            seed=number,
            stream=True,
            extra_body={"ignore_eos": True},
        ) as stream:
            for chunk in stream:
                text += chunk.choices[0].delta.content or ""
                reason = chunk.choices[0].finish_reason
                if text:
                    self.begun.add(number)
        assert reason == "length"
        return text


def test_streams_go_on_when_a_rank_is_killed(tmp_path: Path) -> None:
    python = os.environ.get("BUDMLX_PYTHON", sys.executable)
    model = tmp_path / "tiny"
    subprocess.run([python, "-c", _MODEL, str(model)], cwd=ROOT, check=True)
    settings = {
        "BUDMLX_MODEL": str(model),
        "BUDMLX_RANKS": "2",
        "BUDMLX_WARMUP": "off",
        "BUDMLX_DEVICE": "cpu",
    }
    with (
        started(**settings) as (url, process),
        openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as sdk,
        ThreadPoolExecutor(STREAMS) as threads,
    ):
        client = Client(sdk)
        expected = list(threads.map(client.ask, range(STREAMS)))
        for rank in (1, 0):
            client.begun.clear()
            running = [threads.submit(client.ask, number) for number in range(STREAMS)]
            eventually(lambda: len(client.begun) == STREAMS)
            assert not any(each.done() for each in running)
            os.kill(ranks(process.pid)[rank], signal.SIGKILL)
            eventually(lambda rank=rank: f"rank {rank} of 2 was lost" in ready(url))
            assert [each.result(PATIENCE) for each in running] == expected
        assert ready(url) == ""
        cores = ranks(process.pid)
    for each in cores:
        eventually(lambda each=each: not Path(f"/proc/{each}").exists())


def ranks(server: int) -> list[int]:
    """The processes of both, rank 0 first."""
    command = ["pgrep", "-P", str(server), "-f", "budmlx.core"]
    found = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.split()
    assert len(found) == 2
    return sorted(map(int, found))


def ready(url: str) -> str:
    """Why the server is not ready; empty if it is."""
    try:
        urllib.request.urlopen(f"{url}/ready").close()
    except urllib.error.HTTPError as error:
        with error:
            return error.read().decode()
    return ""


def eventually(condition: Any) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
