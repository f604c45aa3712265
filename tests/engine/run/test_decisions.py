"""Decisions: probabilities of answers, compared with the model's own logits."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.utils import load_model

from budmlx import Engine
from budmlx.engine.run.decisions import MOST_CHOICES
from budmlx.errors import ContextLengthError, InvalidRequestError
from tests.models import tiny_model_dir

QUESTION = "the quick brown fox"


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load(tiny_model_dir(scale=2.0)) as engine:
        yield engine


@pytest.fixture(scope="module")
def module() -> Any:
    return load_model(tiny_model_dir(scale=2.0))[0]


def distribution(module: Any, ids: Sequence[int]) -> np.ndarray[Any, Any]:
    logits = np.array(module(mx.array([list(ids)]))[0, -1].astype(mx.float32), dtype=np.float64)
    odds = np.exp(logits - logits.max())
    return np.asarray(odds / odds.sum())


def expected(engine: Engine, module: Any, choices: Sequence[str]) -> tuple[list[float], float]:
    """Every token of every choice by a pass of its own, and what is allowed at each place."""
    prompt = engine.apply_template(QUESTION).ids
    ends = engine._decider._ends
    paths = [(*engine.tokenize(each, add_special=False).ids, None) for each in choices]
    odds = []
    for path in paths:
        own = 1.0
        for place, token in enumerate(path):
            allowed = {other[place] for other in paths if other[:place] == path[:place]}
            found = distribution(module, [*prompt, *path[:place]])
            chance = {t: found[ends].sum() if t is None else found[t] for t in allowed}
            own *= chance[token] / sum(chance.values())
        odds.append(own)
    firsts = {path[0] for path in paths}
    return odds, float(sum(distribution(module, prompt)[token] for token in firsts))


@pytest.mark.parametrize(
    "choices",
    [
        ["yes", "no"],
        ["the fox", "the dog", "a fox"],
        ["fox", "fox jumps", "fox jumps over"],
        [str(number) for number in range(1, 11)],
        ["\N{GRINNING FACE}", "\N{PILE OF POO}"],
    ],
)
def test_probabilities_are_those_of_replies_that_must_be_one_of_these(
    engine: Engine, module: Any, choices: list[str]
) -> None:
    found = engine.decide(QUESTION, choices)
    odds, mass = expected(engine, module, choices)
    assert np.allclose(found.probabilities, odds, atol=1e-4)
    assert sum(found.probabilities) == pytest.approx(1)
    assert found.mass == pytest.approx(mass, abs=1e-4)
    assert found.choice == choices[int(np.argmax(odds))]
    assert found.usage.prompt_tokens == len(engine.apply_template(QUESTION).ids)


def test_what_a_request_holds_is_given_back(engine: Engine) -> None:
    assert engine.status().running == engine.status().waiting == 0
    assert not engine._pipeline.dispatcher._jobs


async def test_async_and_beside_a_chat(engine: Engine) -> None:
    found = await engine.adecide(QUESTION, ["yes", "no"])
    assert np.allclose(found.probabilities, engine.decide(QUESTION, ["yes", "no"]).probabilities)


@pytest.mark.parametrize(
    ("choices", "param"),
    [
        (["yes"], "choices"),
        ([str(n) for n in range(MOST_CHOICES + 1)], "choices"),
        (["yes", ""], "choices[1]"),
        (["yes", "no", "yes"], "choices[2]"),
    ],
)
def test_what_is_refused(engine: Engine, choices: list[str], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        engine.decide(QUESTION, choices)
    assert caught.value.param == param


def test_a_prompt_that_is_too_long(engine: Engine) -> None:
    with pytest.raises(ContextLengthError):
        engine.decide("word " * 20_000, ["yes", "no"])


def test_choices_that_part_beyond_the_context(engine: Engine) -> None:
    room = len(engine.apply_template(QUESTION).ids) + 1
    with Engine.load(tiny_model_dir(scale=2.0), context_limit=room) as small:
        assert small.decide(QUESTION, ["yes", "no"]).choice in ("yes", "no")
        with pytest.raises(ContextLengthError) as caught:
            small.decide(QUESTION, ["the fox", "the dog"])
        assert caught.value.param == "choices"
        assert small.status().running == 0


def test_a_document_that_is_too_long_is_named(engine: Engine) -> None:
    with pytest.raises(ContextLengthError) as caught:
        engine.rerank("fox?", ["the dog", "word " * 20_000])
    assert caught.value.param == "documents[1]" and "documents[1]" in caught.value.message
    assert "`truncate` has no effect" in engine.rerank("fox?", ["a"], truncate=True).warnings[0]


def test_a_chat_model_ranks_by_what_it_would_answer(engine: Engine) -> None:
    documents = ["the dog", "the fox", "a lazy dog jumps", "fox"]
    ranking = engine.rerank("fox?", documents)
    assert sorted(index for index, _ in ranking.results) == [0, 1, 2, 3]
    assert all(a >= b for (_, a), (_, b) in itertools.pairwise(ranking.results))
    assert all(0 < score < 1 for _, score in ranking.results)
    alone = dict(engine.rerank("fox?", documents[2:3]).results)
    assert dict(ranking.results)[2] == pytest.approx(alone[0], abs=1e-4)
    assert engine.rerank("fox?", documents, top_n=1).results == ranking.results[:1]
    other = engine.rerank("fox?", documents, instruction="Find dogs.")
    assert dict(other.results) != dict(ranking.results)


def test_an_embedding_model_does_not_rank() -> None:
    with (
        Engine.load(tiny_model_dir(), pooling="mean") as engine,
        pytest.raises(InvalidRequestError, match="does not rank"),
    ):
        engine.rerank("a", ["b"])
