"""Samplers and processors of plugins through the Python API, with both hosts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import BaseModel, Field

import budmlx
from budmlx.engine.engine import Engine
from budmlx.errors import InvalidRequestError, PluginError
from budmlx.plugins.specs import LogitsProcessorSpec, SamplerSpec
from tests.models import tiny_model_dir


class Offset(BaseModel):
    offset: int = Field(0, ge=0)


class Nothing(BaseModel):
    pass


class How(BaseModel):
    how: str


@budmlx.hookimpl
def add_samplers() -> list[SamplerSpec]:
    return [SamplerSpec("counting", Offset, "tests.core.plugin_samples:Counting")]


@budmlx.hookimpl
def add_logits_processors() -> list[LogitsProcessorSpec]:
    return [
        LogitsProcessorSpec("no-repeat", Nothing, "tests.core.plugin_samples:NoRepeat"),
        LogitsProcessorSpec("broken", How, "tests.core.plugin_samples:Broken"),
    ]


@pytest.fixture(scope="module", params=["thread", "process"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    path = tiny_model_dir(scale=4.0)
    with Engine.load(path, plugins=[__name__], engine_host=request.param) as engine:
        yield engine


def test_a_request_chooses_by_name(engine: Engine) -> None:
    counting = engine.chat("x", sampler={"name": "counting", "offset": 40}, max_tokens=4)
    again = engine.chat("x", sampler={"name": "counting", "offset": 40}, max_tokens=4, n=2)
    plain = engine.chat("x", temperature=0, max_tokens=4)
    assert counting.text == again.text == again.choices[1].text != plain.text
    unique = engine.complete(
        [5, 6], temperature=0, max_tokens=60, logprobs=0, logits_processors=[{"name": "no-repeat"}]
    )
    # Ids that the tokenizer does not know have no bytes.
    texts = [entry.bytes for entry in unique.choices[0].logprobs if entry.bytes]
    assert len(texts) == len(set(texts))


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"sampler": {"name": "counting", "offset": -1}}, "sampler.offset"),
        ({"sampler": {"name": "nobody"}}, "sampler.name"),
        ({"sampler": {"offset": 1}}, "sampler.name"),
        ({"logits_processors": [{"name": "broken"}]}, "logits_processors[0].how"),
    ],
)
def test_wrong_choices_name_the_field(
    engine: Engine, options: dict[str, object], param: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        engine.chat("x", **options)
    assert caught.value.param == param


def test_a_plugin_that_fails_fails_its_request(engine: Engine) -> None:
    with pytest.raises(PluginError, match=r"tests\.engine\.request\.test_plugin_choices"):
        engine.chat("x", logits_processors=[{"name": "broken", "how": "raise"}])
    assert engine.chat("x", max_tokens=3).usage.completion_tokens == 3
