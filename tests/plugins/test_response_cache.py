"""Replies that are kept, shared and replayed, on a real engine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from budmlx import Engine, hookimpl
from budmlx.builtin.memory_cache import MemoryCache
from budmlx.engine.reuse.stored_reply import decode, reply_key
from budmlx.errors import InvalidRequestError
from budmlx.plugins.limits import PluginLimits
from budmlx.plugins.specs import ResponseCache
from budmlx.types import (
    CachePolicy,
    Completion,
    Finished,
    Message,
    PluginChoice,
    Request,
    SamplingParams,
    TextDelta,
)
from tests.models import tiny_model_dir
from tests.plugins.engines import load_within

# Drawn without a seed; a reply of exactly 6 tokens must not depend on the draw.
ASK = {"max_tokens": 6, "min_tokens": 6, "cache": True}


class Store(MemoryCache):
    """A real cache that is also a plugin and lets a test look inside."""

    def __init__(self) -> None:
        super().__init__(2**20)
        self.kept: dict[str, bytes] = {}
        self.ttls: list[float | None] = []

    @hookimpl
    def provide_response_cache(self) -> ResponseCache:
        return self

    def set(self, key: str, value: bytes, ttl: float | None) -> None:
        super().set(key, value, ttl)
        self.kept[key] = value
        self.ttls.append(ttl)


def settle(engine: Engine) -> None:
    """Wait until what was to be kept is kept."""
    assert engine._pipeline.cache._worker is not None
    engine._pipeline.cache._worker.submit(lambda: None).result()


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def engine(store: Store) -> Iterator[Engine]:
    with Engine.load(tiny_model_dir(scale=2.0), plugins=[store]) as engine:
        yield engine


def test_the_second_equal_request_is_served_from_the_cache(engine: Engine) -> None:
    first = engine.chat("Hello", **ASK, n=2, logprobs=2)
    second = engine.chat("Hello", **ASK, n=2, logprobs=2)
    assert (first.cached, second.cached) == (False, True)
    assert second.choices == first.choices
    assert second.choices[0].logprobs
    cached = first.usage.prompt_tokens
    assert second.usage == replace(first.usage, cached_tokens=cached, written_tokens=0)
    assert second.timing.total == 0
    *_, finished = engine.stream("Hello", **ASK, n=2, logprobs=2)
    assert isinstance(finished, Finished) and finished.cached


def test_a_hit_never_touches_the_core(engine: Engine) -> None:
    first = engine.chat("Hello", **ASK)
    engine._pipeline.dispatcher.host.close()
    assert engine.chat("Hello", **ASK).text == first.text


async def test_a_hit_as_a_stream(engine: Engine) -> None:
    first = await engine.achat("Hello", **ASK)
    *deltas, ended, finished = [event async for event in engine.astream("Hello", **ASK)]
    assert "".join(d.text for d in deltas if isinstance(d, TextDelta)) == first.text
    assert isinstance(finished, Finished) and finished.cached and ended.reason == "length"


def test_what_callers_may_ask_for(engine: Engine, store: Store) -> None:
    kept = engine.chat("Hello", **ASK)
    other = engine.chat("Hello", **{**ASK, "cache": "bypass"})
    settle(engine)
    assert not other.cached and len(store.ttls) == 2
    assert engine.chat("Hello", **ASK).text == other.text != kept.text
    for value in (False, None):
        assert not engine.chat("Hello", **{**ASK, "cache": value}).cached
    engine.chat("Hi", **{**ASK, "cache": {"ttl": 60}})
    settle(engine)
    assert len(store.ttls) == 3
    assert store.ttls[-1] == 60
    for wrong in ("yes", {"ttl": 0}, {"ttl": True}, {"ttl": 1, "x": 2}, {}, 1):
        with pytest.raises(InvalidRequestError) as caught:
            engine.chat("Hi", cache=wrong)
        assert caught.value.param == "cache"


def test_the_key_covers_whatever_determines_the_answer() -> None:  # LIMITS 115
    base = Request(messages=(Message(role="user", content="Hi"),))
    key = reply_key(base, [1, 2], "salt")
    others = [
        reply_key(base, [1, 3], "salt"),
        reply_key(base, [1, 2], "pepper"),
        reply_key(replace(base, n=2), [1, 2], "salt"),
        reply_key(replace(base, namespace="key"), [1, 2], "salt"),
        reply_key(replace(base, chat_template_kwargs={"a": 1}), [1, 2], "salt"),
        reply_key(replace(base, messages=()), [1, 2], "salt"),
    ]
    changes: dict[str, Any] = {
        "temperature": 0.5, "top_p": 0.5, "top_k": 3, "min_p": 0.5, "typical_p": 0.5,
        "frequency_penalty": 1.0, "presence_penalty": 1.0, "repetition_penalty": 2.0,
        "repetition_window": 3, "logit_bias": ((1, 2.0),), "seed": 1, "max_tokens": 3,
        "max_reasoning_tokens": 3, "min_tokens": 1, "stop": ("x",), "stop_token_ids": (1,),
        "ignore_eos": True, "logprobs": 0,
        "sampler": PluginChoice("x", {"tau": 1}), "logits_processors": (PluginChoice("x"),),
    }  # fmt: skip
    for name, value in changes.items():
        sampling = replace(SamplingParams(), **{name: value})
        others.append(reply_key(replace(base, sampling=sampling), [1, 2], "salt"))
    assert set(changes) == set(SamplingParams.__slots__)
    assert len({key, *others}) == len(others) + 1
    assert reply_key(replace(base, cache=CachePolicy()), [1, 2], "salt") == key
    assert len(key) == 64


# LIMITS 115
def test_cancelled_and_failed_replies_are_not_kept(engine: Engine, store: Store) -> None:
    events = engine.stream("Hello", max_tokens=500, cache=True)
    next(events)
    events.close()  # type: ignore[attr-defined]
    with pytest.raises(InvalidRequestError):
        engine.chat("x" * 100_000, **ASK)
    engine.chat("Hi", **ASK)
    settle(engine)
    assert len(store.kept) == 1


async def test_equal_requests_in_flight_compute_once(engine: Engine, store: Store) -> None:
    replies = await asyncio.gather(*(engine.achat("Hello", **ASK) for _ in range(8)))
    settle(engine)
    assert len(store.ttls) == 1
    assert len({reply.text for reply in replies}) == 1
    assert sorted(reply.cached for reply in replies) == [False] + [True] * 7


def test_threads_share_too(engine: Engine, store: Store) -> None:
    texts: list[str] = []
    leader = engine.stream("Hello", max_tokens=300, cache=True)
    next(leader)
    ask = {"max_tokens": 300, "cache": True}
    threads = [
        threading.Thread(target=lambda: texts.append(engine.chat("Hello", **ask).text))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    list(leader)
    for thread in threads:
        thread.join()
    settle(engine)
    assert len(store.ttls) == 1 and len(set(texts)) == 1


async def test_when_the_leader_is_cancelled_a_follower_computes(engine: Engine) -> None:
    ask = {"max_tokens": 400, "cache": True, "ignore_eos": True}
    leader = engine.astream("Hello", **ask)
    await anext(leader)
    followers = [asyncio.create_task(engine.achat("Hello", **ask)) for _ in range(2)]
    await asyncio.sleep(0)
    await leader.aclose()  # type: ignore[attr-defined]
    replies = await asyncio.gather(*followers)
    assert sorted(reply.cached for reply in replies) == [False, True]


async def test_a_follower_that_gives_up_takes_nobody_along(engine: Engine) -> None:
    ask = {"max_tokens": 200, "cache": True, "ignore_eos": True}
    leader = engine.astream("Hello", **ask)
    await anext(leader)
    follower = asyncio.create_task(engine.achat("Hello", **ask))
    patient = asyncio.create_task(engine.achat("Hello", **ask))
    await asyncio.sleep(0)
    follower.cancel()
    events = [event async for event in leader]
    assert isinstance(events[-1], Finished)
    assert (await patient).cached


def test_nobody_waits_for_a_loop_that_was_closed(engine: Engine) -> None:
    loop = asyncio.new_event_loop()
    leader = engine.astream("Hello", max_tokens=50, cache=True)
    loop.run_until_complete(anext(leader))
    loop.close()
    replies: list[Completion] = []
    thread = threading.Thread(
        target=lambda: replies.append(engine.chat("Hello", max_tokens=50, cache=True)), daemon=True
    )
    thread.start()
    thread.join(60)
    assert [reply.cached for reply in replies] == [False]


def test_one_thread_with_two_equal_streams_does_not_wait_for_itself(engine: Engine) -> None:
    streams = [engine.stream("Hello", **ask) for ask in (ASK, ASK)]
    for pair in zip(*streams, strict=False):
        assert pair
    replies = engine.chat_many(["a", "a", "b"], **ASK, progress=False)
    assert not any(reply.cached for reply in replies)
    replies = engine.chat_many(["a", "c"], **ASK, progress=False)
    assert [reply.cached for reply in replies] == [True, False]


@pytest.mark.parametrize(
    ("mode", "sampling", "kept"),
    [
        ("auto", {"temperature": 0}, True),
        ("auto", {"seed": 5}, True),
        ("auto", {}, False),
        ("auto", {"temperature": 0, "cache": False}, False),
        ("on-request", {"temperature": 0}, False),
        ("off", {"cache": True}, False),
    ],
)
def test_the_setting(store: Store, mode: str, sampling: dict[str, Any], kept: bool) -> None:
    with Engine.load(tiny_model_dir(scale=2.0), plugins=[store], cache=mode) as engine:
        reply = engine.chat("Hello", max_tokens=3, **sampling)
        assert engine.chat("Hello", max_tokens=3, **sampling).cached is kept
    warned = any("cache has no effect" in warning for warning in reply.warnings)
    assert warned is (mode == "off")


class Bad(Store):
    """A cache with one fault."""

    def __init__(self, fault: str):
        super().__init__()
        self.fault = fault
        self.release = threading.Event()

    def get(self, key: str) -> bytes | None:
        match self.fault:
            case "raises":
                raise OSError("disk full")
            case "is cancelled":
                raise asyncio.CancelledError
            case "garbage":
                return b"\x93garbage"
            case "no bytes":
                return "text"  # type: ignore[return-value]
            case "another's":
                return next(iter(self.kept.values()), None)
            case "hangs":
                self.release.wait()
        return super().get(key)

    def set(self, key: str, value: bytes, ttl: float | None) -> None:
        super().set(key, value, ttl)
        if self.fault == "exits":
            raise SystemExit
        if self.fault == "is cancelled":
            raise asyncio.CancelledError


@pytest.mark.parametrize(
    "fault", ["raises", "garbage", "no bytes", "another's", "hangs", "exits", "is cancelled"]
)
def test_a_bad_cache_costs_only_the_caching(fault: str, caplog: pytest.LogCaptureFixture) -> None:
    store = Bad(fault)
    limits = PluginLimits(cache_seconds=0.2)
    with load_within(limits, tiny_model_dir(scale=2.0), store) as engine:
        for prompt in ("one", "two", "three"):
            reply = engine.chat(prompt, **ASK)
            assert not reply.cached and reply.usage.completion_tokens == 6
        store.release.set()
    assert caplog.text.count("The response cache of plugin Bad-0") == 1


def test_only_whole_replies_of_the_key_are_read(engine: Engine, store: Store) -> None:
    engine.chat("Hello", **ASK)
    settle(engine)
    ((key, raw),) = store.kept.items()
    assert decode(key, raw) is not None
    assert decode("0" * 64, raw) is None
    for length in range(len(raw)):
        assert decode(key, raw[:length]) is None
