"""Reused KV through the whole engine: exact counts, namespaces, the same replies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from budmlx.engine.engine import Engine
from budmlx.engine.request.python_api import chat_request
from budmlx.types import Finished, Request
from tests.amount import usually
from tests.core.architectures import ARCHITECTURES, SCALES
from tests.models import tiny_model_dir

GREEDY = {"temperature": 0, "max_tokens": 12}
STORY = "Once upon a time there was a brown fox who could not jump. " * 8


@pytest.fixture(scope="module")
def path() -> Path:
    return tiny_model_dir(scale=4.0)


@pytest.fixture(scope="module", params=usually("thread".__eq__, ["thread", "process"]))
def engine(path: Path, request: pytest.FixtureRequest) -> Iterator[Engine]:
    with Engine.load(path, engine_host=request.param) as engine:
        yield engine


@pytest.fixture(scope="module")
def cold(path: Path) -> Iterator[Engine]:
    with Engine.load(path, prefix_cache="0") as engine:
        yield engine


def ask(engine: Engine, request: Request) -> Finished:
    *_, finished = engine.events(request)
    assert isinstance(finished, Finished)
    return finished


def test_a_conversation_is_computed_once(engine: Engine, cold: Engine) -> None:
    messages = [{"role": "user", "content": "First: " + STORY}]
    prompts, cached = [], []
    for turn in range(5):
        # With a seed, what the model said comes back as the tokenizer writes it.
        reply = engine.chat(messages, seed=1, **GREEDY)
        again = cold.chat(messages, seed=1, **GREEDY)
        assert (reply.text, again.usage.cached_tokens) == (again.text, 0)
        prompts.append(reply.usage.prompt_tokens)
        cached.append(reply.usage.cached_tokens)
        messages += [
            {"role": "assistant", "content": reply.text},
            {"role": "user", "content": f"And number {turn}?"},
        ]
    assert cached[0] == 0
    # A generated text may tokenize differently when it comes back; the prompt before does not.
    assert all(hit >= before - 1 for hit, before in zip(cached[1:], prompts, strict=False))


def test_an_exact_repeat_counts_all_but_one_token(engine: Engine) -> None:
    first = engine.chat("Repeat: " + STORY, **GREEDY, n=3)
    second = engine.chat("Repeat: " + STORY, **GREEDY, n=3)
    assert second.choices == first.choices
    stored = first.usage.prompt_tokens - 1
    assert (first.usage.written_tokens, second.usage.written_tokens) == (stored, 0)
    assert second.usage == replace(first.usage, cached_tokens=stored, written_tokens=0)


def test_a_stop_string_leaves_the_tokens_in_place(engine: Engine, cold: Engine) -> None:
    plain = cold.chat("Stop: " + STORY, **GREEDY).text
    stop = plain[len(plain) // 2 :][:2]
    for _ in range(3):
        stopped = engine.chat("Stop: " + STORY, **GREEDY, stop=stop)
        assert stopped.text == plain[: plain.index(stop)]
    assert engine.chat("Stop: " + STORY, **GREEDY).text == plain


def test_namespaces_share_nothing_unless_told_so(path: Path, engine: Engine) -> None:
    """LIMITS 116."""
    request = chat_request("Private: " + STORY, GREEDY)
    mine, yours = (replace(request, namespace=name * 64) for name in "ab")
    hits = [ask(engine, each).usage.cached_tokens for each in (mine, yours, request, mine)]
    assert hits[:3] == [0, 0, 0] and hits[3] > 300
    with Engine.load(path, prefix_cache_shared=True) as shared:
        hits = [ask(shared, each).usage.cached_tokens for each in (mine, yours)]
    assert hits[0] == 0 and hits[1] > 300


def test_a_response_cache_counts_the_whole_prompt(engine: Engine) -> None:
    replies = [engine.chat("Kept: " + STORY, **GREEDY, cache=True) for _ in range(2)]
    assert replies[1].cached
    assert replies[1].usage.cached_tokens == replies[0].usage.prompt_tokens


@pytest.mark.parametrize("name", ["gemma3_text", "mamba"])
def test_models_that_need_checkpoints_reuse_instructions(name: str) -> None:
    path = tiny_model_dir(ARCHITECTURES[name], scale=SCALES.get(name, 3.0))
    rules = {"role": "system", "content": STORY}
    with Engine.load(path) as engine, Engine.load(path, prefix_cache="0") as cold:
        counts = []
        for question in ("First?", "And second, please?"):
            messages = [rules, {"role": "user", "content": question}]
            for _ in range(2):
                reply = engine.chat(messages, **GREEDY)
                assert reply.text == cold.chat(messages, **GREEDY).text
                counts.append((reply.usage.prompt_tokens, reply.usage.cached_tokens))
        instructions = len(engine.apply_template([rules]).ids)
        (first, none), (_, again), (second, common), (_, other) = counts
        assert (none, again, other) == (0, first - 1, second - 1)
        assert instructions - 16 < common <= instructions
        # One's reply and next question come after a history that was asked before.
        turns = [
            *messages,
            {"role": "assistant", "content": "No."},
            {"role": "user", "content": "Why?"},
        ]
        assert engine.chat(turns, **GREEDY).usage.cached_tokens >= second - 8


def test_any_turn_of_a_conversation_can_be_asked_again() -> None:
    """The model's states are kept at the end of every turn, though the server saw it only once."""
    path = tiny_model_dir(ARCHITECTURES["gemma3_text"], scale=SCALES.get("gemma3_text", 3.0))
    messages = [{"role": "system", "content": "Be brief."}]
    for number in range(5):
        messages.append({"role": "user", "content": f"{number}. " + STORY[:90]})
        messages.append({"role": "assistant", "content": f"{number}: yes. " + STORY[90:150]})
    with Engine.load(path, engine_host="thread") as engine:
        ends = [len(engine.apply_template(messages[: 1 + 2 * turn]).ids) for turn in range(5)]
        engine.chat([*messages, {"role": "user", "content": "So?"}], **GREEDY)
        for turn in (4, 2, 1, 3):
            other = {"role": "user", "content": "Something else."}
            reply = engine.chat([*messages[: 1 + 2 * turn], other], **GREEDY)
            assert ends[turn] - 16 < reply.usage.cached_tokens <= ends[turn]
