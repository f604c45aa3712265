"""Draft models: what may draft for what, and what is told of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from budmlx.config import Config
from budmlx.engine.engine import Engine
from budmlx.engine.load.library.library import Library
from budmlx.engine.models.catalogue import spec_of
from budmlx.engine.models.description import ModelDescription
from budmlx.engine.models.models import Models
from budmlx.errors import ConfigError, ModelLoadError
from budmlx.plugins.manager import Plugins
from tests.models import tiny_model_dir

QUESTIONS = [f"{word} and {word} and {word} and" for word in ("one", "two", "three", "four")]


@pytest.fixture(scope="module")
def model() -> Path:
    return tiny_model_dir(scale=4.0)


def changed(source: Path, path: Path, /, **parts: Any) -> Path:
    """A copy of a model with another tokenizer. parts: of tokenizer.json."""
    shutil.copytree(source, path)
    tokenizer = json.loads((path / "tokenizer.json").read_text())
    (path / "tokenizer.json").write_text(json.dumps({**tokenizer, **parts}))
    return path


@pytest.mark.parametrize("host", ["thread", "process"])
def test_replies_are_the_same(model: Path, host: str) -> None:
    options = {"temperature": 0.8, "top_p": 0.9, "seed": 4, "max_tokens": 40}
    own = {"engine_host": host, "speculation": 4}
    with Engine.load(model, draft_model=str(model), **own) as engine:
        assert engine.info.draft_model == model.name
        without = engine.chat_many(QUESTIONS, progress=False, speculation=False, **options)
        drafting = engine.chat_many(QUESTIONS, progress=False, **options)
        weights = engine.status().budget.weights
    assert [reply.text for reply in drafting] == [reply.text for reply in without]
    drafted = sum(reply.usage.drafted_tokens for reply in drafting)
    accepted = sum(reply.usage.accepted_tokens for reply in drafting)
    assert drafted > 60 and accepted > 0.9 * drafted
    with Engine.load(model, **own) as alone:
        assert weights == 2 * alone.status().budget.weights


def test_another_tokenizer_is_refused_by_what_differs(model: Path, tmp_path: Path) -> None:
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    added = tokenizer["added_tokens"]
    vocab = tokenizer["model"]["vocab"]
    more = {**added[-1], "id": max(vocab.values()) + 1, "content": "<other>"}
    one, two, *_ = (token for token in vocab if len(token) == 1)
    swapped = {**vocab, one: vocab[two], two: vocab[one]}
    cases = {
        f"token {more['id']} is none of .* and '<other>' of": {"added_tokens": [*added, more]},
        f"token {min(vocab[one], vocab[two])} is": {
            "model": {**tokenizer["model"], "vocab": swapped}
        },
        "another pre_tokenizer": {
            "pre_tokenizer": {"type": "Whitespace"},
        },
    }
    for number, (words, parts) in enumerate(cases.items()):
        other = changed(model, tmp_path / f"other{number}", **parts)
        with pytest.raises(ModelLoadError, match=f"other{number} cannot draft .*{words}"):
            Engine.load(model, draft_model=str(other), speculation="auto")
    # How texts begin does not matter: a draft model sees ids alone.
    begun = changed(model, tmp_path / "same", post_processor=None)
    Engine.load(model, draft_model=str(begun), speculation="auto").close()


def test_what_cannot_be_used_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="speculation is off") as off:
        Engine.load(model, draft_model=str(model))
    assert off.value.param == "speculation"
    # Nothing is fetched, and no hub is asked, for what will not be used.
    with pytest.raises(ConfigError, match="org/nothing is to draft, but speculation is off"):
        Engine.load(model, draft_model="org/nothing")
    with pytest.raises(ModelLoadError, match="There is no directory"):
        Engine.load(model, draft_model="nothing", speculation=2)
    with pytest.raises(ModelLoadError, match="has no config"):
        Engine.load(model, draft_model=str(tmp_path), speculation=2)


def test_its_memory_is_told_before_it_is_loaded(model: Path) -> None:
    own: dict[str, Any] = {"speculation": "auto", "engine_host": "thread", "warmup": "off"}
    config = Config.of(model=str(model), draft_model=str(model), **own)
    files = Library().at(model)
    with Models(config) as models:
        resident = models.residents[0]
        spec = resident.spec
        assert spec.weights == 2 * files.weights and spec.kv is not None and files.kv is not None
        assert spec.kv.row_bytes(1000) == 2 * files.kv.row_bytes(1000)
        # In the budget of all models, too, before it is loaded and then.
        assert resident.claim.weights == 2 * files.weights
        with models.engine(resident.name):
            assert resident.claim.weights == 2 * files.weights
    missing = config.model_copy(update={"draft_model": "org/missing"})
    assert not spec_of("tiny", missing, files).found
    told = ModelDescription.of(files, config, Plugins.load(config)).as_json()
    assert told["draft_model"]["name"] == model.name and not told["problems"]
    alone = ModelDescription.of(files, Config.of(), Plugins.load(config)).as_json()
    assert [each["total"] for each in told["memory"]] == [
        2 * each["total"] for each in alone["memory"]
    ]


def test_a_model_of_a_table_has_its_own() -> None:
    tables = {"one": {"model": "a", "draft_model": "small"}, "two": {"model": "b"}}
    config = Config.of(models=tables, speculation="auto", draft_model="other")
    assert config.for_model("one").draft_model == "small"
    assert config.for_model("two").draft_model is None
