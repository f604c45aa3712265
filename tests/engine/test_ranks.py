"""A model that is split over ranks says what it says on one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import psutil
import pytest

from budmlx.engine.engine import Engine
from budmlx.errors import ConfigError, InvalidRequestError, ModelLoadError
from budmlx.types import Completion
from tests.amount import usually
from tests.core.architectures import ARCHITECTURES, SCALES
from tests.models import tiny_model_dir

SPLIT_SETTINGS: Mapping[str, Any] = {"engine_host": "process", "ranks": 2, "warmup": "off"}
SPLIT = ("llama", "qwen2", "qwen3", "qwen3_moe", "ministral3", "gpt_oss", "deepseek_v3")
# Each alone takes other ways through sampling; together they share batches.
MIXED: tuple[Mapping[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 0.9, "seed": 5, "top_p": 0.9},
    {"temperature": 0.0, "response_format": {"type": "json_object"}},
    {"temperature": 0.0, "frequency_penalty": 0.5, "repetition_penalty": 1.2},
    {"temperature": 1.0, "seed": 7, "n": 2},
    {"temperature": 0.0, "logprobs": 3},
    {"temperature": 0.5, "seed": 1, "min_p": 0.1, "min_tokens": 20, "logit_bias": {40: 2.0}},
    {"temperature": 0.8, "seed": 3, "top_k": 20},
)


def directory(name: str, bits: int | None = None) -> str:
    scale = SCALES.get(name, 4.0)
    return str(tiny_model_dir(ARCHITECTURES[name], bits=bits, scale=scale))


def ask_all(engine: Engine) -> list[Completion]:
    """All kinds of requests at once, of different length; rows join and leave."""

    def ask(number: int) -> Completion:
        text = f"{number} " + "once upon a time " * (3 * number % 7)
        options = MIXED[number % len(MIXED)]
        return engine.chat(text, max_tokens=16 + 5 * (number % 5), **options)

    with ThreadPoolExecutor(2 * len(MIXED)) as threads:
        return list(threads.map(ask, range(2 * len(MIXED))))


def logprobs(replies: list[Completion]) -> list[float]:
    entries = (e for reply in replies for choice in reply.choices for e in choice.logprobs)
    return [one.logprob for e in entries for one in (e, *e.top)]


def said(replies: list[Completion]) -> list[Any]:
    return [[replace(each, logprobs=()) for each in reply.choices] for reply in replies]


@pytest.fixture(scope="module")
def split() -> Iterator[Engine]:
    with Engine.load(directory("llama"), **SPLIT_SETTINGS) as engine:
        yield engine


@pytest.fixture(scope="module")
def whole() -> Iterator[Engine]:
    with Engine.load(directory("llama"), engine_host="thread", warmup="off") as engine:
        yield engine


def test_mixed_requests_are_answered_as_on_one_rank(split: Engine, whole: Engine) -> None:
    expected, replies = ask_all(whole), ask_all(split)
    assert said(replies) == said(expected)
    assert logprobs(replies) and logprobs(replies) == pytest.approx(logprobs(expected), abs=1e-4)
    assert replies[2].text.lstrip().startswith("{")


def test_what_was_computed_is_reused_by_all_ranks(split: Engine, whole: Engine) -> None:
    document = "It was a dark and stormy night. " * 40
    options: Mapping[str, Any] = {"temperature": 0.0, "max_tokens": 12}
    for question in ("Who?", "Where?", "Who?"):
        reply = split.chat(document + question, **options)
        assert reply.text == whole.chat(document + question, **options).text
        # Whoever asks what is stored, uses it; all ranks must evict the same.
        assert split.estimate(document + question).cached_tokens > 1000
    assert reply.usage.cached_tokens > 1000


def test_memory_is_that_of_all_ranks(split: Engine, whole: Engine) -> None:
    one, both = whole.status().budget, split.status().budget
    assert both.limit == pytest.approx(one.limit, abs=2)
    # What is not divided, such as the embeddings of tokens, is there twice.
    assert one.weights < both.weights < 2 * one.weights
    limit = both.limit // 2
    assert split.set_memory_limit(limit).result(60).limit == limit


@pytest.mark.parametrize(
    ("name", "bits"),
    usually(
        lambda case: case == ("qwen3", None), [("llama", 4), *((name, None) for name in SPLIT[1:])]
    ),
)
def test_other_architectures(name: str, bits: int | None) -> None:
    path = directory(name, bits)
    with Engine.load(path, engine_host="thread", warmup="off") as engine:
        expected = ask_all(engine)
    with Engine.load(path, **SPLIT_SETTINGS) as engine:
        assert said(ask_all(engine)) == said(expected)


@pytest.mark.parametrize(
    "name", usually(lambda name: False, ["qwen2", "qwen3_moe", "ministral3", "deepseek_v3"])
)
def test_pipelines(name: str) -> None:
    path = directory(name)
    document = "It was a dark and stormy night. " * 40
    with Engine.load(path, engine_host="thread", warmup="off") as engine:
        expected = ask_all(engine)
        about = engine.chat(document, temperature=0.0, max_tokens=12).text
    with Engine.load(path, **SPLIT_SETTINGS, parallel="pipeline") as engine:
        assert said(ask_all(engine)) == said(expected)
        for cached in (False, True):
            reply = engine.chat(document, temperature=0.0, max_tokens=12)
            assert reply.text == about
            assert (reply.usage.cached_tokens > 500) == cached


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("engine_host", "thread"),
        ("speculation", "auto"),
        ("kv_store", "kv"),
        ("session", ("notes",)),
        ("adapter", ("a=adapter",)),
        ("pooling", "last"),
    ],
)
def test_settings_that_ranks_cannot_have_are_refused(setting: str, value: object) -> None:
    others = psutil.Process().children()
    with pytest.raises(ConfigError) as refused:
        Engine.load(directory("llama"), **{**SPLIT_SETTINGS, setting: value})
    assert refused.value.param == ("ranks" if setting == "pooling" else setting)
    assert psutil.Process().children() == others


def test_requests_that_ranks_cannot_answer_are_refused(split: Engine, tmp_path: Any) -> None:
    with pytest.raises(ModelLoadError, match="split over ranks"):
        split.add_adapter("a", tmp_path)
    with pytest.raises(InvalidRequestError, match="split over ranks"):
        split.save_session("A long beginning", tmp_path / "notes")
    assert split.chat("Hi", max_tokens=2).usage.completion_tokens == 2
