"""What is counted of the reuse of KV agrees with what each request was told."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any, get_args

import pytest

from budmlx import Engine, hookimpl
from budmlx.engine.prompt import TokenizedPrompt
from budmlx.engine.request.python_api import chat_request, prompt_request
from budmlx.engine.reuse.tracker import ReuseTracker, Submission
from budmlx.engine.text.tokenizer import Tokenizer
from budmlx.errors import ContextLengthError, PluginError
from budmlx.plugins.specs import OutputFilterFactory
from budmlx.types import Finished, MissReason, PrefixCacheStats, Request, Usage
from tests.models import tiny_model_dir

STORY = "Once upon a time there was a brown fox who could not jump. " * 6
SHORT: dict[str, Any] = {"temperature": 0, "max_tokens": 3}


def load(**settings: Any) -> Engine:
    return Engine.load(tiny_model_dir(scale=4.0), **settings)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with load() as engine:
        yield engine


class Sums:
    """What the requests of an engine were told, from now on."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self._before = engine.prefix_cache_stats()
        self._prompt_tokens = self._cached_tokens = 0
        self._reasons = dict(self._before.reasons)

    def ask(self, request: Request, reason: MissReason) -> None:
        *_, end = self._engine.events(request)
        assert isinstance(end, Finished)
        assert end.cache_explanation is None or end.cache_explanation.reason == reason
        self.add(end.usage, reason)

    def add(self, usage: Usage, reason: MissReason) -> None:
        self._prompt_tokens += usage.prompt_tokens
        self._cached_tokens += usage.cached_tokens
        self._reasons[reason] += 1

    def check(self) -> None:
        stats = self._engine.prefix_cache_stats()
        assert stats.prompt_tokens - self._before.prompt_tokens == self._prompt_tokens
        assert stats.cached_tokens - self._before.cached_tokens == self._cached_tokens
        assert stats.reasons == self._reasons
        assert stats.requests == sum(self._reasons.values())


@pytest.mark.parametrize("explain", [True, False])
def test_sums_and_reasons_are_those_of_the_requests(explain: bool) -> None:
    options = {**SHORT, "explain_cache": explain}
    story = chat_request(STORY, options)
    with load() as engine:
        assert engine.prefix_cache_stats() == PrefixCacheStats()
        sums = Sums(engine)
        sums.ask(story, "never_seen")
        sums.ask(story, "complete")
        sums.ask(replace(story, n=3), "complete")
        sums.ask(chat_request(STORY + "But then?", options), "differs")
        sums.ask(replace(story, cache_salt="x"), "other_namespace")
        sums.ask(replace(story, namespace="a" * 64), "never_seen")
        sums.check()
        ids = list(range(20, 60))
        only = {**options, "max_tokens": 1, "logit_bias": {7: 100}}
        sums.ask(prompt_request(ids, only), "never_seen")
        sums.ask(prompt_request([*ids, 7, *ids], only), "new")
        sums.check()
        stats = engine.prefix_cache_stats()
        assert (stats.memory_tokens, stats.disk_tokens) == (stats.cached_tokens, 0)
        assert stats.cached_tokens > 500


async def test_every_way_to_ask_is_counted() -> None:
    with load() as engine:
        sums = Sums(engine)
        sums.add(engine.chat(STORY, **SHORT).usage, "never_seen")
        sums.add((await engine.achat(STORY, **SHORT)).usage, "complete")
        for reply in engine.chat_many([STORY] * 2, progress=False, **SHORT):
            sums.add(reply.usage, "complete")
        sums.check()


def test_what_is_read_from_disk_is_counted_apart(tmp_path: Path) -> None:
    for hits in (False, True):
        with load(kv_store=str(tmp_path)) as engine:
            first, second = (engine.chat(STORY * 3, **SHORT).usage for _ in range(2))
            stats = engine.prefix_cache_stats()
        assert stats.disk_tokens == first.cached_tokens
        assert bool(stats.disk_tokens) == hits
        assert stats.memory_tokens == second.cached_tokens == second.prompt_tokens - 1


def test_where_nothing_is_kept_prompts_are_counted() -> None:
    with load(prefix_cache="0") as engine:
        sums = Sums(engine)
        for _ in range(2):
            sums.ask(chat_request(STORY, SHORT), "off")
        sums.check()


async def test_kept_and_shared_replies_are_not_counted(engine: Engine) -> None:
    engine.chat("First: " + STORY, **SHORT)
    sums = Sums(engine)
    kept = chat_request("Kept: " + STORY, {**SHORT, "cache": True})
    sums.ask(kept, "differs")
    sums.check()
    *_, again = engine.events(kept)
    assert isinstance(again, Finished) and again.cached and again.usage.cached_tokens
    sums.check()
    twice = [engine.achat("Both: " + STORY, cache=True, **SHORT) for _ in range(2)]
    replies = await asyncio.gather(*twice)
    assert sorted(reply.cached for reply in replies) == [False, True]
    (computed,) = (reply.usage for reply in replies if not reply.cached)
    sums.add(computed, "differs")
    sums.check()


class Breaks:
    """An output filter that raises at the very end of a reply."""

    def push(self, text: str, last: bool) -> str:
        if last:
            raise RuntimeError("It broke.")
        return text


class Plugin:
    """Breaks every reply."""

    @hookimpl
    def add_output_filters(self) -> Sequence[OutputFilterFactory]:
        return [Breaks]


def test_what_has_no_end_is_not_counted(engine: Engine) -> None:
    before = engine.prefix_cache_stats()
    request = chat_request("Ends: " + STORY, {**SHORT, "max_tokens": 50})
    with closing(engine.events(request)) as events:  # type: ignore[type-var]
        next(events)
    with pytest.raises(ContextLengthError):
        engine.complete([5] * engine.info.context_length)
    assert engine.prefix_cache_stats() == before
    with load(plugins=[Plugin()]) as broken:
        with pytest.raises(PluginError):
            broken.chat(STORY, **SHORT)
        assert broken.prefix_cache_stats() == PrefixCacheStats()


def test_what_was_handed_out_does_not_change(engine: Engine) -> None:
    before = engine.prefix_cache_stats()
    reasons = dict(before.reasons)
    engine.chat("Frozen: " + STORY, **SHORT)
    assert dict(before.reasons) == reasons
    assert reasons.keys() == set(get_args(MissReason))
    assert engine.prefix_cache_stats().requests == before.requests + 1
    with pytest.raises(FrozenInstanceError):
        before.prompt_tokens = 0  # type: ignore[misc]
    with pytest.raises(TypeError):
        before.reasons["new"] = 1  # type: ignore[index]


def test_no_count_is_lost_between_threads() -> None:
    tracker = ReuseTracker(Tokenizer.load(tiny_model_dir(scale=4.0)), 100, enabled=False)
    asked = Submission.of(chat_request("Hi", {}), TokenizedPrompt([1, 2]), shared=False)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: tracker.explained(asked, 0, 0), range(2000)))
    finally:
        sys.setswitchinterval(interval)
    assert (tracker.stats.requests, tracker.stats.prompt_tokens) == (2000, 4000)
