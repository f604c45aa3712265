"""Why KV was not reused: what is said must be what happened."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from budmlx import Engine
from budmlx.engine.prompt import TokenizedPrompt
from budmlx.engine.request.python_api import chat_request, prompt_request
from budmlx.engine.reuse.explain import MAX_PROMPTS, History
from budmlx.engine.reuse.tracker import ReuseTracker, Submission
from budmlx.engine.text.tokenizer import Tokenizer
from budmlx.protocol import LEAST_REUSED, LEAST_STRETCH, Image
from budmlx.types import CacheExplanation, Finished
from tests.core.architectures import ARCHITECTURES
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
        assert told.token is not None and 0 < told.token < LEAST_REUSED
        salted = why(engine, "Three: " + STORY, cache_salt="x")
        assert (salted.reason, salted.token) == ("never_seen", 0)


@pytest.mark.parametrize("shared", [LEAST_REUSED - 1, LEAST_REUSED])
def test_what_is_too_short_to_be_reused_is_not_called_kept(engine: Engine, shared: int) -> None:
    salt, first = f"shared {shared}", [*range(shared, 60)]
    other = [*first[:shared], *range(200, 240)]
    engine.complete(first, **SHORT, cache_salt=salt)
    reused = engine.complete(other, **SHORT, cache_salt=salt)
    enough = shared == LEAST_REUSED
    assert reused.usage.cached_tokens == (shared if enough else 0)
    told = reused.cache_explanation
    assert told is not None and (told.reason, told.token) == ("differs", shared)
    third = [*first[:shared], *range(300, 340)]
    elsewhere = engine.complete(third, **SHORT, cache_salt=f"not {salt}").cache_explanation
    assert elsewhere is not None
    assert elsewhere.reason == ("other_namespace" if enough else "never_seen")


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


ENOUGH = 16
"""Tokens that prompts must share for anything to be reused."""


def why_ids(engine: Engine, ids: list[int], **options: Any) -> CacheExplanation:
    *_, end = engine.events(prompt_request(ids, {**SHORT, "max_tokens": 1, **options}))
    assert isinstance(end, Finished) and end.cache_explanation is not None
    assert end.cache_explanation.matched_tokens == end.usage.cached_tokens
    return end.cache_explanation


@pytest.mark.parametrize("shared", [ENOUGH - 1, ENOUGH, ENOUGH + 1])
def test_reuse_and_explanation_draw_the_line_at_the_same_token(shared: int) -> None:
    enough = shared >= ENOUGH
    with Engine.load(tiny_model_dir(scale=4.0)) as engine:
        why_ids(engine, [*range(5, 65)])
        other = why_ids(engine, [*range(5, 5 + shared), *range(100, 140)])
        assert (other.reason, other.token) == ("differs", shared)
        assert other.matched_tokens == (shared if enough else 0)
        salted = why_ids(engine, [*range(5, 5 + shared), *range(150, 190)], cache_salt="x")
        assert (salted.reason, salted.matched_tokens) == (
            "other_namespace" if enough else "never_seen",
            0,
        )


@pytest.mark.parametrize("shared", [ENOUGH - 1, ENOUGH])
def test_what_was_evicted_is_missed_from_the_same_token_on(shared: int) -> None:
    with Engine.load(tiny_model_dir(scale=4.0), prefix_cache="60KiB") as engine:
        why_ids(engine, [*range(5, 65)])
        why_ids(engine, [*range(200, 300)])
        told = why_ids(engine, [*range(5, 5 + shared), *range(100, 140)])
    assert (told.reason, told.matched_tokens) == (
        "evicted" if shared >= ENOUGH else "differs",
        0,
    )


@pytest.mark.parametrize("held", [ENOUGH - 1, ENOUGH])
def test_a_state_that_saves_less_than_that_is_not_used(held: int) -> None:
    """It is kept before the last token of a prompt, which is computed in any case."""
    with Engine.load(tiny_model_dir(ARCHITECTURES["mamba"], scale=4.0)) as engine:
        first = [*range(5, 5 + held + 1)]
        why_ids(engine, first)
        told = why_ids(engine, [*first, *range(100, 140)])
    assert told.matched_tokens == (held if held >= ENOUGH else 0)


def told(
    history: History,
    prompt: TokenizedPrompt,
    cached: int,
    *,
    owner: str = "",
    since: int | None = None,
) -> tuple[str, int | None]:
    said = history.explain(owner, owner, prompt, cached=cached, from_disk=0, since=since)
    return said.reason, said.token


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(tiny_model_dir(scale=4.0))


def test_other_owners_are_not_told_of(tokenizer: Tokenizer) -> None:
    history, prompt = History(tokenizer), TokenizedPrompt([*range(5, 40)])
    history.add("alice", "alice", TokenizedPrompt([*range(5, 50)]))
    assert told(history, prompt, 0, owner="bob") == ("never_seen", 0)
    same = history.explain("alice", "alice", prompt, cached=34, from_disk=34)
    assert (same.reason, same.tier) == ("complete", "disk")


def test_the_same_text_in_other_tokens(tokenizer: Tokenizer) -> None:
    usual = tokenizer.encode("the quick", add_special=False)
    letters = [id_ for c in "the quick" for id_ in tokenizer.encode(c, add_special=False)]
    history = History(tokenizer)
    history.add("", "", TokenizedPrompt([9, 9]), letters)
    prompt = TokenizedPrompt([9, 9, *usual, 7], ends=(1, 9))
    said = history.explain("", "", prompt, cached=2, from_disk=0)
    assert (said.reason, said.token, said.message) == ("retokenised", 2, 1)
    history.add("", "", TokenizedPrompt([9, 9, *usual]))
    # All that came before is reused; the last token is computed in any case.
    assert told(history, TokenizedPrompt([9, 9, *usual, 7]), 2 + len(usual))[0] == "complete"
    longer = TokenizedPrompt([9, 9, *usual, 7, 8, 9])
    assert told(history, longer, 2 + len(usual)) == ("new", 2 + len(usual))
    for number in range(MAX_PROMPTS):
        history.add("", "", TokenizedPrompt([number + 100]))
    assert told(history, longer, 0) == ("never_seen", 0)
    # More is stored than is tracker of it, such as a session.
    assert told(history, longer, 2) == ("new", 2)


def test_what_is_computed_at_the_same_time_was_not_evicted(tokenizer: Tokenizer) -> None:
    history, prompt = History(tokenizer), TokenizedPrompt([*range(5, 50)])
    since = history.count
    history.add("", "", prompt)
    assert told(history, prompt, 0, since=since) == ("never_seen", 0)
    assert told(history, prompt, 20, since=since) == ("new", 20)
    assert (
        told(history, TokenizedPrompt([*prompt.ids[:20], *range(90, 99)]), 20, since=since)[0]
        == "differs"
    )
    assert told(history, prompt, 0, since=history.count) == ("evicted", 0)


def test_equal_prompts_at_once(tokenizer: Tokenizer) -> None:
    tracker = ReuseTracker(tokenizer, 1000, enabled=True)
    request = prompt_request([*range(5, 50)], {"explain_cache": True})
    asked = Submission.of(request, TokenizedPrompt([*range(5, 50)]), shared=False)
    first, second = (tracker.with_own_ids(asked, None) for _ in range(2))
    tracker.add(first, [[7]])
    third = tracker.with_own_ids(asked, None)
    told = [tracker.explained(each, 0, 0) for each in (second, third)]
    assert [each.reason for each in told] == ["never_seen", "evicted"]


def test_pictures_are_told_apart(tokenizer: Tokenizer) -> None:
    def shows(*keys: str) -> TokenizedPrompt:
        pictures = [
            Image(plugin="p", start=start, tokens=4, key=key * 64, arrays={})
            for key, start in zip(keys, (20, 24), strict=True)
        ]
        return TokenizedPrompt([*range(5, 25), *[3] * 8, *range(40, 60)], tuple(pictures))

    history = History(tokenizer)
    history.add("", "", shows("a", "b"))
    for keys, place in ((("c", "b"), 20), (("a", "c"), 24)):
        assert told(history, shows(*keys), place) == ("differs", place)
    assert told(history, shows("a", "b"), 0) == ("evicted", 0)


def test_states_between_which_prompts_differ(tokenizer: Tokenizer) -> None:
    history, ids = History(tokenizer, states=True), [*range(5, 205)]
    history.add("", "", TokenizedPrompt(ids, checkpoints=(30, 100)))
    parts = {
        place: TokenizedPrompt([*ids[:place], *range(300, 310)]) for place in (50, 99, 150, 199)
    }
    assert told(history, parts[50], 0) == ("differs", 50)
    assert told(history, parts[99], 0) == ("differs", 99)
    assert told(history, parts[150], 0) == ("evicted", 0)
    assert told(history, parts[150], 100) == ("differs", 150)
    # A state so soon after one that was reused is not kept.
    assert told(history, parts[150], 101 - LEAST_STRETCH) == ("differs", 150)
    assert told(history, parts[199], 100) == ("evicted", 100)
    history.add("", "", TokenizedPrompt(ids[:50]))
    assert told(history, parts[99], 0) == ("differs", 99)
