"""Files that an earlier version wrote: they are used, or set aside without a failure."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from budmlx import Engine
from budmlx.config import Config
from budmlx.config.sources import load_config
from budmlx.errors import InvalidRequestError
from tests.amount import usually
from tests.recorded.stores import (
    CONFIG_FILE,
    CONFIG_VALUES,
    GREEDY,
    KV_STORE,
    QUESTION,
    SESSION,
    about,
    maker,
    recorded_model,
)
from tests.recorded.write_stores import values


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded_model(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded_model(tmp_path_factory.mktemp("models"), seed=1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Path]:
    yield Path(shutil.copytree(KV_STORE, tmp_path / "kv"))


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("*/*")}


def expected(model: Path, name: str) -> int:
    """The tokens that come from a file: none where other libraries or weights compute."""
    known = about()
    return int(known[name]) if maker(model) == known["maker"] else 0


def test_the_recorded_files_are_small() -> None:
    assert contents(KV_STORE)
    assert sum(map(len, contents(KV_STORE).values())) < 300_000
    assert SESSION.stat().st_size < 300_000


@pytest.mark.parametrize("host", usually("thread".__eq__, ["thread", "process"]))
def test_kept_kv_is_used(model: Path, store: Path, host: str) -> None:
    with Engine.load(model, prefix_cache="0", engine_host=host) as cold:
        text = cold.chat(QUESTION, **GREEDY).text
    with Engine.load(model, kv_store=str(store), engine_host=host) as engine:
        reply = engine.chat(QUESTION, explain_cache=True, **GREEDY)
        found = reply.usage.cached_tokens
        assert reply.text == text
        assert found == expected(model, "from_disk")
        assert reply.cache_explanation is not None
        assert reply.cache_explanation.tier == ("disk" if found else "none")
    assert contents(KV_STORE).items() <= contents(store).items()


def test_kv_of_another_model_is_set_aside(other_model: Path, store: Path) -> None:
    before = contents(store)
    for life in range(2):
        with Engine.load(other_model, kv_store=str(store)) as engine:
            reply = engine.chat(QUESTION, explain_cache=True, **GREEDY)
            assert (reply.usage.cached_tokens > 0) == bool(life)
            explained = reply.cache_explanation
            assert explained is not None and explained.tier == ("disk" if life else "none")
    assert before.items() < contents(store).items()


def test_a_recorded_session_is_used_or_refused(model: Path) -> None:
    lent = expected(model, "from_session")
    with Engine.load(model) as engine:
        if not lent:
            with pytest.raises(InvalidRequestError, match=r"^.*save it again\.?$"):
                engine.load_session(SESSION)
            return
        engine.load_session(SESSION)
        reply = engine.chat(QUESTION, **GREEDY)
        assert (reply.usage.cached_tokens, reply.text) == (lent, about()["text"])


def test_a_session_of_another_model_is_refused_in_one_line(other_model: Path) -> None:
    with Engine.load(other_model) as engine:
        with pytest.raises(InvalidRequestError, match=r"^.*save it again\.?$") as caught:
            engine.load_session(SESSION)
        assert "\n" not in caught.value.message and str(SESSION) in caught.value.message
        assert engine.chat("Hello", **GREEDY).usage.completion_tokens


def test_a_recorded_configuration_means_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Config.model_fields:
        monkeypatch.delenv(f"BUDMLX_{name.upper()}", raising=False)
    recorded = json.loads(CONFIG_VALUES.read_text("utf-8"))
    loaded = load_config({}, CONFIG_FILE)
    found = values(loaded.config)
    assert recorded.items() <= found.items()
    assert loaded.places == dict.fromkeys(recorded, str(CONFIG_FILE))
    defaults = values(Config())
    assert not [name for name, value in recorded.items() if value == defaults[name]]
