"""Options of samplers that name tokens: words become ids, and every id is in the vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import mlx.core as mx
import pytest
from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from budmlx import Engine, hookimpl
from budmlx.errors import InvalidRequestError, PluginError
from budmlx.plugins.options import TokenId, TokenIds, vocabulary_of
from budmlx.plugins.specs import RowContext, SamplerSpec
from budmlx.testing import check_sampler
from tests.models import tiny_model_dir

HERE = "tests.plugins.test_options"


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid")

    token: TokenId
    others: TokenIds = ()
    half: int = 0

    @field_validator("half")
    @classmethod
    def in_the_lower_half(cls, value: int, info: ValidationInfo) -> int:
        vocabulary = vocabulary_of(info)
        if vocabulary is not None and 2 * value >= vocabulary.size:
            raise ValueError("that is in the upper half")
        return value if value != 13 else 1 // 0


class Always:
    """Draws one token."""

    def init(self, options: Mapping[str, Any]) -> mx.array:
        assert isinstance(options["others"], list)
        return mx.array([options["token"]])

    def sample(
        self, logits: mx.array, state: mx.array, context: RowContext, keys: mx.array
    ) -> tuple[mx.array, mx.array]:
        return state, state


SPEC = SamplerSpec("always", Options, f"{HERE}:Always")


class Offers:
    @hookimpl
    def add_samplers(self) -> Sequence[SamplerSpec]:
        return [SPEC]


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load(tiny_model_dir(scale=4.0), plugins=[Offers()]) as engine:
        yield engine


def said(engine: Engine, **options: Any) -> str:
    chosen = {"name": "always", **options}
    return engine.chat("Hello", max_tokens=3, sampler=chosen).text


def test_a_word_becomes_its_id(engine: Engine) -> None:
    word = said(engine, token=70)[0]
    assert said(engine, token=word) == said(engine, token=70) == word * 3
    assert said(engine, token=70, others=word * 4) == word * 3
    assert said(engine, token=70, others=[70, word]) == word * 3


@pytest.mark.parametrize(
    ("options", "param", "problem"),
    [
        (
            {"token": -1},
            "token",
            "-1 is outside of the vocabulary of 512 tokens (plugin Offers-0).",
        ),
        (
            {"token": 512},
            "token",
            "512 is outside of the vocabulary of 512 tokens (plugin Offers-0).",
        ),
        ({"token": "\u00e9\u00e9\u00e9"}, "token", "it must be a single one"),
        ({"token": ""}, "token", "'' is 0 tokens of this model; it must be a single one"),
        ({"token": 1.5}, "token", "must be a token id or a text"),
        ({"token": True}, "token", "must be a token id or a text"),
        ({"token": "\ud800"}, "token", "surrogate"),
        ({"token": 1, "others": [1, 512]}, "others", "512 is outside of the vocabulary"),
        ({"token": 1, "others": "x" * 5000}, "others", "a text may have 4096 characters"),
        ({"token": 1, "others": 7}, "others", "must be a text or a list of token ids"),
        ({"token": 1, "half": 256}, "half", "sampler.half: that is in the upper half"),
        ({"token": 1, "half": "x"}, "half", "must be a valid integer"),
        ({}, "token", "sampler.token: always needs it"),
        ({"token": 1, "tokens": 1}, "tokens", "always has no such option; it has token, others"),
    ],
)
def test_a_wrong_option_is_refused_in_plain_words(
    engine: Engine, options: dict[str, Any], param: str, problem: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        said(engine, **options)
    assert caught.value.param == f"sampler.{param}"
    assert problem in caught.value.message
    assert caught.value.message.startswith(f"sampler.{param}: ")
    assert caught.value.message.endswith(" (plugin Offers-0).")
    assert "Value error" not in caught.value.message


def test_a_validator_that_breaks_is_the_plugins_fault(engine: Engine) -> None:
    with pytest.raises(PluginError, match="failed in its options of always"):
        said(engine, token=1, half=13)


def test_outside_of_an_engine_there_are_ids_only() -> None:
    assert Options.model_validate({"token": 10**6}).token == 10**6
    with pytest.raises(ValueError, match="needs the tokenizer of a model"):
        Options.model_validate({"token": "a"})


def test_the_checks_have_a_vocabulary() -> None:
    check_sampler(SPEC, {"token": "b", "others": "ab"}, token="a")
    with pytest.raises(ValueError, match="outside of the vocabulary of 48"):
        check_sampler(SPEC, token=48)
