"""A model's own defaults: what requests get that do not say otherwise, in Python and over HTTP."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from budmlx import Engine
from budmlx.client import BudClient
from budmlx.types import Request, SamplingDefault, SamplingParams, TextDelta
from tests.models import tiny_model_dir

SAID = {"temperature": 0.6, "top_k": 5, "repetition_penalty": 1.3}
NEUTRAL = {"temperature": 1.0, "top_k": 0, "repetition_penalty": 1.0}
ASKED: dict[str, Any] = {"seed": 3, "max_tokens": 16}
PROMPT = "What is the sea?"


def model(directory: Path, **entries: Any) -> Path:
    """A random model with further entries in its `generation_config.json`."""
    directory.mkdir()
    for file in tiny_model_dir().iterdir():
        if file.name != "generation_config.json":
            (directory / file.name).symlink_to(file)
    own = json.loads((tiny_model_dir() / "generation_config.json").read_text())
    (directory / "generation_config.json").write_text(json.dumps({**own, **entries}))
    return directory


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with recommendations, of which one cannot be used."""
    return model(tmp_path_factory.mktemp("models") / "own", **SAID, top_p=7, max_new_tokens=2)


@pytest.fixture(scope="module")
def engine(place: Path) -> Iterator[Engine]:
    with Engine.load(place, cache="auto") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """What the model without recommendations says, by how it is asked."""
    with Engine.load(tiny_model_dir()) as plain:
        asked = {
            "plain": {},
            "file": SAID,
            "warm": {**SAID, "temperature": 1.0},
            "config": {"top_k": 2},
            "both": {**SAID, "top_k": 2},
        }
        found = {name: plain.chat(PROMPT, **ASKED, **each).text for name, each in asked.items()}
    assert len(set(found.values())) == len(found)
    return found


def test_an_engine_tells_its_defaults_and_where_each_was_set(engine: Engine) -> None:
    assert engine.defaults["temperature"] == SamplingDefault(0.6, "generation_config.json")
    assert engine.defaults["top_p"] == SamplingDefault(1.0, "built in")
    with Engine.load() as demo:
        assert {each.source for each in demo.defaults.values()} == {"built in"}


def test_what_a_request_does_not_say_is_the_models(engine: Engine, texts: dict[str, str]) -> None:
    assert engine.chat(PROMPT, **ASKED).text == texts["file"]
    assert engine.chat(PROMPT, **ASKED, temperature=1).text == texts["warm"]
    assert engine.chat(PROMPT, **ASKED, **NEUTRAL).text == texts["plain"]
    assert engine.chat(PROMPT, **ASKED, **dict.fromkeys(NEUTRAL)).text == texts["file"]
    assert engine.chat_many([PROMPT], progress=False, **ASKED)[0].text == texts["file"]


def test_the_same_holds_over_http(engine: Engine, texts: dict[str, str]) -> None:
    with BudClient(engine=engine) as client:

        def said(**params: Any) -> str:
            messages = [{"role": "user", "content": PROMPT}]
            reply = client.chat.completions.create(
                model="any", messages=messages, **ASKED, **params
            )
            return str(reply.choices[0].message.content)

        assert said() == texts["file"]
        assert said(temperature=1) == texts["warm"]
        assert said(**NEUTRAL) == texts["plain"]
        assert said(**{**NEUTRAL, "top_k": -1}) == texts["plain"]
        assert said(temperature=None) == texts["file"]


def test_raw_prompts_have_the_defaults_too(engine: Engine) -> None:
    ids = [5, 6, 7, 8]
    wanted = engine.complete(ids, **ASKED, **SAID).text
    assert engine.complete(ids, **ASKED).text == wanted
    assert engine.complete(ids, **ASKED, **NEUTRAL).text != wanted


def test_a_request_made_by_hand_says_what_is_not_built_in(engine: Engine) -> None:
    request = Request(prompt=(5, 6, 7, 8), sampling=SamplingParams(seed=3, max_tokens=8))

    def text(request: Request) -> str:
        events = list(engine.events(request))
        return "".join(event.text for event in events if isinstance(event, TextDelta))

    filled = replace(request, sampling=SamplingParams(seed=3, max_tokens=8, **SAID))  # type: ignore[arg-type]
    assert text(request) == text(filled)
    assert text(replace(request, given=frozenset(SAID))) != text(filled)


def test_stored_replies_belong_to_the_completed_request(engine: Engine) -> None:
    conversation = "What is a stored reply?"
    first = engine.chat(conversation, seed=5, max_tokens=8)
    assert not first.cached
    again = engine.chat(conversation, seed=5, max_tokens=8, **SAID)
    assert (again.cached, again.text) == (True, first.text)
    assert not engine.chat(conversation, seed=5, max_tokens=8, **NEUTRAL).cached


def test_the_configuration_goes_before_the_file(place: Path, texts: dict[str, str]) -> None:
    tables = {"own": {"model": str(place), "default_sampling": {"top_k": 2}}}
    with Engine.load("own", models=tables) as loaded:
        assert loaded.defaults["top_k"] == SamplingDefault(2, "config")
        assert loaded.chat(PROMPT, **ASKED).text == texts["both"]
    with Engine.load(place, generation_config=False, default_sampling={"top_k": 2}) as loaded:
        assert loaded.chat(PROMPT, **ASKED).text == texts["config"]


def test_unusable_recommendations_are_reported_when_the_model_loads(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = model(tmp_path / "odd", do_sample=False, top_p=7)
    with caplog.at_level(logging.WARNING), Engine.load(place, cache="auto") as loaded:
        assert "odd: generation_config.json: top_p must be between 0 and 1" in caplog.text
        # Without sampling it is greedy, so that replies are kept unasked.
        first = loaded.chat(PROMPT, max_tokens=8)
        assert loaded.chat(PROMPT, max_tokens=8).cached
        assert loaded.chat(PROMPT, max_tokens=8, temperature=0).text == first.text
