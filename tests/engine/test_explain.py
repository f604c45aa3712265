"""Why KV was not reused: what is said must be what happened."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from budmlx import Engine
from budmlx.engine.explain import LEAST, MAX_PROMPTS, History
from budmlx.engine.requests import chat_request
from budmlx.engine.tokenizer import Tokenizer
from budmlx.types import CacheExplanation, Finished
from tests.models import tiny_model_dir

STORY = "Once upon a time there was a brown fox who could not jump. " * 6
SHORT: dict[str, Any] = {"temperature": 0, "max_tokens": 3, "explain_cache": True}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load(tiny_model_dir(scale=4.0)) as engine:
        yield engine


def why(engine: Engine, *messages: str | dict[str, str], **options: Any) -> CacheExplanation:
    turns = [{"role": "user", "content": m} if isinstance(m, str) else m for m in messages]
    reply = engine.chat(turns, **{**SHORT, **options})
    told = reply.cache_explanation
    assert told is not None
    assert told.matched_tokens == reply.usage.cached_tokens
    assert told.prompt_tokens == reply.usage.prompt_tokens
    assert told.tier == ("memory" if told.matched_tokens else "none")
    return told


def test_every_reason(engine: Engine) -> None:
    first = why(engine, "One: " + STORY)
    assert (first.reason, first.matched_tokens, first.token) == ("never_seen", 0, 0)
    again = why(engine, "One: " + STORY)
    assert (again.reason, again.token, again.message) == ("complete", None, None)
    other = why(engine, "One: " + STORY + "But then?")
    ids = engine.apply_template([{"role": "user", "content": "One: " + STORY + "But then?"}]).ids
    assert (other.reason, other.message) == ("differs", 0)
    assert other.token == other.matched_tokens
    assert other.text == engine.detokenize([ids[other.token]])
    salted = why(engine, "One: " + STORY, cache_salt="x")
    assert (salted.reason, salted.matched_tokens) == ("other_namespace", 0)
    rules = {"role": "system", "content": "Speak of foxes. " * 8}
    why(engine, rules, "Begin.")
    turned = why(engine, rules, "Go on then.", {"role": "assistant", "content": "Yes."}, "More.")
    assert (turned.reason, turned.message) == ("differs", 1)


def test_short_beginnings_are_not_called_evicted() -> None:
    with Engine.load(tiny_model_dir(scale=4.0)) as engine:
        why(engine, "One: " + STORY)
        told = why(engine, "Two: " + STORY)
        assert (told.reason, told.matched_tokens, told.text) == ("differs", 0, "T")
        assert told.token is not None and 0 < told.token < LEAST
        salted = why(engine, "Three: " + STORY, cache_salt="x")
        assert (salted.reason, salted.token) == ("never_seen", 0)


def test_what_was_evicted() -> None:
    with Engine.load(tiny_model_dir(scale=4.0), prefix_cache="100KiB") as engine:
        why(engine, "One: " + STORY)
        for number in range(3):
            why(engine, f"{number}: " + STORY)
        told = why(engine, "One: " + STORY)
    assert (told.reason, told.matched_tokens) == ("evicted", 0)


def test_what_was_on_disk(tmp_path: Path) -> None:
    tiers = []
    for _ in range(2):
        with Engine.load(tiny_model_dir(scale=4.0), kv_store=str(tmp_path)) as engine:
            for _ in range(2):
                reply = engine.chat("One: " + STORY * 3, **SHORT)
                assert reply.cache_explanation is not None
                tiers.append(reply.cache_explanation.tier)
    assert tiers == ["none", "memory", "disk", "memory"]


def test_nothing_is_kept() -> None:
    with Engine.load(tiny_model_dir(scale=4.0), prefix_cache="0") as engine:
        for _ in range(2):
            assert why(engine, "One: " + STORY).reason == "off"


def test_nothing_is_said_unasked_and_a_stream_says_it_last(engine: Engine) -> None:
    assert engine.chat("Hello", max_tokens=2).cache_explanation is None
    *_, end = engine.events(chat_request("Hello", SHORT))
    assert isinstance(end, Finished) and end.cache_explanation is not None


def test_other_owners_are_not_told_of() -> None:
    tokenizer = Tokenizer.load(tiny_model_dir(scale=4.0))
    history = History(tokenizer)
    history.add("alice", "alice", range(5, 50))
    told = history.explain("bob", "bob", range(5, 40), cached=0, from_disk=0, ends=[])
    assert told.reason == "never_seen"
    same = history.explain("alice", "alice", range(5, 40), cached=34, from_disk=34, ends=[])
    assert (same.reason, same.tier) == ("complete", "disk")


def test_the_same_text_in_other_tokens() -> None:
    tokenizer = Tokenizer.load(tiny_model_dir(scale=4.0))
    usual = tokenizer.encode("the quick", add_special=False)
    letters = [id_ for c in "the quick" for id_ in tokenizer.encode(c, add_special=False)]
    history = History(tokenizer)
    history.add("", "", [9, 9, *letters])
    told = history.explain("", "", [9, 9, *usual, 7], cached=2, from_disk=0, ends=[1, 9])
    assert (told.reason, told.token, told.message) == ("retokenised", 2, 1)
    history.add("", "", [9, 9, *usual])
    told = history.explain("", "", [9, 9, *usual, 7], cached=2 + len(usual), from_disk=0, ends=[])
    # All that came before is reused; the last token is computed in any case.
    assert told.reason == "complete"
    longer = [9, 9, *usual, 7, 8, 9]
    told = history.explain("", "", longer, cached=2 + len(usual), from_disk=0, ends=[])
    assert (told.reason, told.token) == ("new", 2 + len(usual))
    for number in range(MAX_PROMPTS):
        history.add("", "", [number + 100])
    assert history.explain("", "", longer, cached=0, from_disk=0, ends=[]).reason == "never_seen"
