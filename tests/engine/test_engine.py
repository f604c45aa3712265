"""The Python API on a real tiny model, with both hosts."""

from __future__ import annotations

import asyncio
import doctest
import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import budmlx.engine.engine
from budmlx.engine.engine import Engine
from budmlx.errors import (
    ConfigError,
    ContextLengthError,
    EngineClosedError,
    EngineUnavailableError,
    InvalidRequestError,
    ModelLoadError,
)
from budmlx.types import Finished, Message, TextDelta
from tests.amount import usually
from tests.models import tiny_model_dir

MESSAGES = [{"role": "user", "content": "the quick brown fox"}]


@pytest.fixture(scope="module")
def path() -> Path:
    return tiny_model_dir(scale=4.0)


@pytest.fixture(scope="module", params=["thread", "process"])
def engine(path: Path, request: pytest.FixtureRequest) -> Iterator[Engine]:
    with Engine.load(path, engine_host=request.param) as engine:
        yield engine


def wait_until(condition: Callable[[], bool], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def test_docstring_examples(path: Path) -> None:
    with Engine.load(path) as engine:
        names = {"Engine": Engine, "engine": engine, "model_path": path}
        result = doctest.testmod(budmlx.engine.engine, extraglobs=names)
    assert result.attempted > 5 and result.failed == 0


def test_chat_stream_and_their_async_twins_agree(engine: Engine) -> None:
    options = {"temperature": 0.8, "seed": 11, "max_tokens": 24}
    whole = engine.chat(MESSAGES, **options)
    *deltas, finished = engine.stream(MESSAGES, **options)
    assert "".join(d.text for d in deltas if isinstance(d, TextDelta)) == whole.text
    assert isinstance(finished, Finished)
    reused = finished.usage.cached_tokens
    assert finished.usage == replace(whole.usage, cached_tokens=reused, written_tokens=0)

    async def both() -> None:
        assert (await engine.achat(MESSAGES, **options)).text == whole.text
        events = [event async for event in engine.astream(MESSAGES, **options)]
        assert "".join(e.text for e in events if isinstance(e, TextDelta)) == whole.text

    asyncio.run(both())


def test_usage_and_timing(engine: Engine) -> None:
    reply = engine.chat(MESSAGES, temperature=0, max_tokens=9)
    assert reply.finish_reason == "length"
    assert reply.usage.completion_tokens == 9
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + 9
    assert reply.timing.queue >= 0 and reply.timing.prompt > 0 and reply.timing.total > 0


def test_strings_messages_and_dicts_mean_the_same(engine: Engine) -> None:
    text = "the quick brown fox"
    replies = {
        engine.chat(form, temperature=0, max_tokens=8).text
        for form in (text, MESSAGES, [Message(role="user", content=text)])
    }
    assert len(replies) == 1


def test_a_chat_has_no_suffix(engine: Engine) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        engine.chat("Hi", suffix="bye")
    assert caught.value.param == "suffix"


def test_stop_strings_end_the_text_before_them(engine: Engine) -> None:
    whole = engine.chat(MESSAGES, temperature=0, max_tokens=60).text
    stop = whole[20:24]
    cut = engine.chat(MESSAGES, temperature=0, max_tokens=60, stop=stop)
    assert cut.text == whole[: whole.index(stop)]
    assert cut.finish_reason == "stop"
    wait_until(lambda: engine.status().running == 0)


def test_chat_many_keeps_order(engine: Engine) -> None:
    prompts = [f"count {i}" for i in range(30)]
    together = engine.chat_many(prompts, temperature=0, max_tokens=6, progress=False)
    assert len(together) == 30
    for prompt, reply in list(zip(prompts, together, strict=True))[::7]:
        assert engine.chat(prompt, temperature=0, max_tokens=6).text == reply.text


def test_complete_takes_text_and_token_ids(engine: Engine) -> None:
    assert engine.complete("the quick", max_tokens=3).usage.completion_tokens == 3
    assert engine.complete([5, 6, 7], max_tokens=3).usage.prompt_tokens == 3


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"temperature": 3}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": [""]}, "stop"),
        ({"tempreature": 1}, "tempreature"),
        ({"seed": 2**64}, "seed"),
    ],
)
def test_wrong_options_name_the_parameter(
    engine: Engine, options: dict[str, object], param: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        engine.chat(MESSAGES, **options)
    assert caught.value.param == param


@pytest.mark.parametrize("ids", [[512], [-1], [5, 10**12]])
def test_ids_outside_the_vocabulary_never_reach_the_core(engine: Engine, ids: list[int]) -> None:
    with pytest.raises(InvalidRequestError):
        engine.complete(ids)
    assert engine.status().ready


def test_a_prompt_longer_than_the_context(engine: Engine) -> None:  # LIMITS 53
    with pytest.raises(ContextLengthError) as caught:
        engine.complete([5] * engine.info.context_length)
    assert caught.value.code == "context_length_exceeded"


def test_abandoned_streams_free_their_rows(engine: Engine) -> None:
    stream = engine.stream(MESSAGES, max_tokens=5000)
    next(stream)
    del stream
    gc.collect()
    wait_until(lambda: engine.status().running == 0)

    async def abandon() -> None:
        events = engine.astream(MESSAGES, max_tokens=5000)
        await anext(events)
        await events.aclose()

    asyncio.run(abandon())
    wait_until(lambda: engine.status().running == 0)


def test_a_loop_that_is_closed_under_a_request(engine: Engine) -> None:
    loop = asyncio.new_event_loop()
    events = engine.astream(MESSAGES, max_tokens=200)
    loop.run_until_complete(anext(events))
    loop.close()
    assert engine.chat(MESSAGES, max_tokens=2).usage.completion_tokens == 2
    wait_until(lambda: engine.status().running == 0)


LEFT_OPEN = """
import sys
from budmlx import Engine

engine = Engine.load(sys.argv[1])
streams = [engine.stream("x", max_tokens=8000, ignore_eos=True) for _ in range(4)]
print([next(stream) for stream in streams])
"""


def test_a_program_may_end_with_an_engine_open(path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", LEFT_OPEN, str(path)], capture_output=True)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_threads_share_an_engine(engine: Engine) -> None:  # LIMITS 122
    want = engine.chat("x", temperature=0, max_tokens=12).text
    got: list[str] = []
    threads = [
        threading.Thread(
            target=lambda: got.append(engine.chat("x", temperature=0, max_tokens=12).text)
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [want] * 8


@pytest.mark.parametrize("host", usually("thread".__eq__, ["thread", "process"]))
def test_closing(path: Path, host: str) -> None:  # LIMITS 122
    first, second = (Engine.load(path, engine_host=host) for _ in range(2))
    stream = first.stream(MESSAGES, max_tokens=8000)
    next(stream)
    first.close()
    first.close()
    with pytest.raises(EngineUnavailableError):
        list(stream)
    with pytest.raises(EngineClosedError):
        first.chat(MESSAGES)
    assert second.chat(MESSAGES, max_tokens=2).usage.completion_tokens == 2
    second.close()


def test_loading_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError):
        Engine.load(tmp_path / "nothing-here")
    with pytest.raises(ConfigError):
        Engine.load(tmp_path, max_rows=0)


@pytest.mark.parametrize("host", usually("thread".__eq__, ["thread", "process"]))
def test_a_memory_limit_below_the_weights(path: Path, host: str) -> None:
    with pytest.raises(ModelLoadError, match="memory limit"):
        Engine.load(path, engine_host=host, memory_limit=1000)


@pytest.mark.long  # tests/server/test_process_host.py compares replies of both in the usual run
def test_both_hosts_draw_the_same_tokens(path: Path) -> None:
    sampling = {"temperature": 1.0, "top_p": 0.95, "frequency_penalty": 0.4, "seed": 77}
    texts = set()
    for host in ("thread", "process"):
        with Engine.load(path, engine_host=host) as engine:
            alone = engine.chat(MESSAGES, max_tokens=20, **sampling)
            several = engine.chat(MESSAGES, max_tokens=20, n=4, **sampling)
        texts |= {alone.text, several.text}
    assert len(texts) == 1


def test_choices_and_logprobs(engine: Engine) -> None:
    reply = engine.chat(MESSAGES, n=3, seed=5, logprobs=2, max_tokens=10)
    assert len({choice.text for choice in reply.choices}) == 3
    assert reply.usage.completion_tokens <= 30
    for choice in reply.choices:
        raw = b"".join(entry.bytes for entry in choice.logprobs)
        assert raw.decode(errors="replace") == choice.text
        assert all(len(entry.top) == 2 for entry in choice.logprobs)
    biased = engine.chat(MESSAGES, logit_bias={40: 100, 10**9: 1}, max_tokens=3)
    assert any("logit_bias" in warning for warning in biased.warnings)
