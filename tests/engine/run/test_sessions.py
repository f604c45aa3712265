"""Sessions in files: what was computed once is there another time, for the same model only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from budmlx import Engine
from budmlx.core.reuse.blocks import SESSIONS
from budmlx.engine.prompt import TokenizedPrompt
from budmlx.engine.request.python_api import chat_request
from budmlx.engine.reuse.tracker import Submission
from budmlx.errors import InvalidRequestError, ModelLoadError
from tests.amount import usually
from tests.core.architectures import ARCHITECTURES, SCALES
from tests.models import tiny_model_dir

BOOK = [{"role": "system", "content": "Once upon a time there was a fox. " * 40}]
SHORT = {"temperature": 0, "max_tokens": 8}


def asked(question: str) -> list[dict[str, str]]:
    return [*BOOK, {"role": "user", "content": question}]


@pytest.fixture(scope="module")
def path() -> Path:
    return tiny_model_dir(scale=4.0)


@pytest.fixture(scope="module")
def expected(path: Path) -> Iterator[str]:
    with Engine.load(path, prefix_cache="0") as cold:
        yield cold.chat(asked("Who?"), **SHORT).text


def common(engine: Engine, question: str) -> int:
    """How many tokens a prompt has in common with the session of the book."""
    book, prompt = engine.apply_template(BOOK).ids, engine.apply_template(asked(question)).ids
    return next(n for n, pair in enumerate(zip(book, prompt, strict=False)) if len({*pair}) > 1)


@pytest.mark.parametrize(
    ("host", "bits"),
    usually(lambda case: case[0] == "thread", [("thread", None), ("thread", 8), ("process", 8)]),
)
def test_a_session_is_there_another_time(
    path: Path, expected: str, tmp_path: Path, host: str, bits: int | None
) -> None:
    config = ARCHITECTURES["llama"] | {"head_dim": 64}
    path = path if bits is None else tiny_model_dir(config, scale=4.0)
    settings = {"engine_host": host, "kv_bits": bits}
    file = tmp_path / "book"
    with Engine.load(path, **settings) as engine:
        engine.save_session(BOOK, file)
        lent = common(engine, "Who?")
        assert lent % 256
        first = engine.chat(asked("Who?"), **SHORT).text
    assert bits is not None or first == expected
    assert [each.name for each in tmp_path.iterdir()] == ["book"]
    with Engine.load(path, **settings) as engine:
        assert engine.chat("Hello", **SHORT).usage.cached_tokens == 0
        engine.load_session(file)
        reply = engine.chat(asked("Who?"), **SHORT)
        assert reply.text == first and reply.usage.cached_tokens == lent
    with Engine.load(path, session=[str(file)], **settings) as engine:
        reply = engine.chat(asked("Who?"), **SHORT)
        assert reply.text == first and reply.usage.cached_tokens == lent
        other = engine.chat(asked("Who?"), cache_salt="salt", **SHORT)
        assert other.usage.cached_tokens == lent
        assert other.text == first


def test_a_process_saves_and_loads_one(path: Path, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "book"
    with Engine.load(path, engine_host="process") as engine:
        engine.save_session(BOOK, file)
        engine.load_session(file)
        reply = engine.chat(asked("Who?"), cache_salt="salt", **SHORT)
        assert (reply.text, reply.usage.cached_tokens) == (expected, common(engine, "Who?"))


def test_a_session_is_never_evicted(path: Path, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "book"
    with Engine.load(path) as engine:
        tokens = engine.save_session(BOOK, file)
        ids = engine.apply_template(BOOK).ids
    with Engine.load(path, prefix_cache="700KiB") as engine:
        engine.load_session(file)
        for number in range(6):
            engine.chat(f"{number} " + "Something else. " * 40, **SHORT)
        reply = engine.chat(asked("Who?"), **SHORT)
        assert reply.usage.cached_tokens == common(engine, "Who?") and reply.text == expected
    with Engine.load(path) as engine:
        assert engine.save_session(list(ids), file) == tokens


def test_what_cannot_be_used_says_why(path: Path, tmp_path: Path) -> None:
    file, damaged, other = tmp_path / "book", tmp_path / "damaged", tmp_path / "other"
    with Engine.load(path) as engine:
        engine.save_session(BOOK, file)
        damaged.write_bytes(file.read_bytes()[:1000])
        other.write_bytes((path / "model.safetensors").read_bytes())
        for bad, words in (
            (tmp_path / "none", "cannot be read"),
            (tmp_path, "cannot be read"),
            (damaged, "is damaged"),
            (other, "is no session"),
        ):
            with pytest.raises(InvalidRequestError, match=words):
                engine.load_session(bad)
        with pytest.raises(InvalidRequestError, match="cannot be written"):
            engine.save_session(BOOK, tmp_path / "no" / "folder")
        assert engine.chat("Hello", **SHORT).text
    stranger = Engine.load(tiny_model_dir(scale=4.0, seed=5))
    with stranger, pytest.raises(InvalidRequestError, match="another model"):
        stranger.load_session(file)
    with pytest.raises(ModelLoadError, match="session cannot be used"):
        Engine.load(path, session=[str(damaged)])
    small = Engine.load(path, prefix_cache="50KiB")
    with small, pytest.raises(InvalidRequestError, match="prefix_cache"):
        small.load_session(file)
    windows = tiny_model_dir(ARCHITECTURES["gemma3_text"], scale=SCALES.get("gemma3_text", 3.0))
    with Engine.load(windows) as engine:
        with pytest.raises(InvalidRequestError, match="cannot be saved"):
            engine.save_session(BOOK, tmp_path / "windows")
        with pytest.raises(InvalidRequestError, match="cannot begin with a session"):
            engine.load_session(file)


def test_no_salt_reaches_sessions_or_other_owners(path: Path, tmp_path: Path) -> None:
    odd = ["", "\0", "a", "a\0", "\0a", "1", "1 a", " ", SESSIONS, f"\0{SESSIONS}", "\ud800"]
    spaces = set()
    for owner, salt in product(odd, odd):
        request = replace(chat_request("Hi", {"cache_salt": salt}), namespace=owner)
        spaces.add(Submission.of(request, TokenizedPrompt([1]), shared=False).namespace)
    assert len(spaces) == len(odd) ** 2 and SESSIONS not in spaces
    with Engine.load(path) as engine:
        engine.save_session(BOOK, tmp_path / "book")
        engine.load_session(tmp_path / "book")
        for salt in odd:
            reply = engine.complete(list(range(9, 99)), cache_salt=salt, max_tokens=1)
            assert reply.usage.cached_tokens == 0, salt
