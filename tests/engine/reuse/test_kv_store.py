"""KV on disk through the whole engine: restarts, a core that is killed, namespaces."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from budmlx.engine.engine import Engine
from budmlx.engine.request.python_api import chat_request
from budmlx.types import Finished, Request
from tests.amount import usually
from tests.models import tiny_model_dir

GREEDY = {"temperature": 0, "max_tokens": 12}
STORY = "Once upon a time there was a brown fox who could not jump. " * 12
BLOCK = 256


@pytest.fixture(scope="module")
def path() -> Path:
    return tiny_model_dir(scale=4.0)


@pytest.fixture(scope="module")
def text(path: Path) -> str:
    with Engine.load(path, prefix_cache="0") as engine:
        return engine.chat(STORY, **GREEDY).text


@pytest.mark.parametrize("host", usually("thread".__eq__, ["thread", "process"]))
def test_a_prompt_is_known_after_a_restart(
    path: Path, tmp_path: Path, host: str, text: str
) -> None:
    for life in range(2):
        with Engine.load(path, engine_host=host, kv_store=str(tmp_path)) as engine:
            reply = engine.chat(STORY, **GREEDY)
            assert reply.text == text
            # All but the last token, whose logits are needed.
            known = reply.usage.prompt_tokens - 1
            assert reply.usage.cached_tokens == (known if life else 0)


def ask(engine: Engine, request: Request) -> int:
    *_, finished = engine.events(request)
    assert isinstance(finished, Finished)
    return finished.usage.cached_tokens


def test_keys_share_nothing_on_disk(path: Path, tmp_path: Path) -> None:
    """LIMITS 116."""
    request = chat_request("Private: " + STORY, GREEDY)
    hits = []
    for name in "aba":
        with Engine.load(path, kv_store=str(tmp_path)) as engine:
            hits.append(ask(engine, replace(request, namespace=name * 64)))
    assert hits[:2] == [0, 0] and hits[2] >= 2 * BLOCK
    assert not any(b"aaaa" in file.read_bytes()[:2000] for file in tmp_path.glob("*/*"))


def test_a_core_that_was_killed_reads_what_it_kept(path: Path, tmp_path: Path) -> None:
    with Engine.load(path, engine_host="process", kv_store=str(tmp_path)) as engine:
        first = engine.chat(STORY, **GREEDY)
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("*/*.safetensors"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        [core] = [
            child
            for child in psutil.Process().children(recursive=True)
            if "budmlx.core" in child.cmdline()
        ]
        os.kill(core.pid, signal.SIGKILL)
        core.wait(60)
        again = engine.chat(STORY, **GREEDY)
        assert again.text == first.text
        # The last block, which is no whole one, is written when there is time.
        assert again.usage.cached_tokens >= again.usage.prompt_tokens // BLOCK * BLOCK
