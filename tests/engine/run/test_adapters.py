"""Adapters through the whole engine: chosen by name, kept apart, added and removed under load."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from budmlx import Engine
from budmlx.engine.hosts.adapters import HostAdapters
from budmlx.errors import (
    EngineUnavailableError,
    InvalidRequestError,
    ModelLoadError,
    ModelNotFoundError,
)
from budmlx.protocol import AdapterAnswer, AdapterSource, RemoveAdapter
from tests.adapters import alone, as_peft, greedy, write_mlx
from tests.amount import usually
from tests.models import tiny_model_dir

TOKENS = 16
SHORT = {"temperature": 0, "max_tokens": TOKENS}
STORY = "Once upon a time there was a brown fox who could not jump. " * 12
IDS = list(range(20, 31))
HOSTS = usually("thread".__eq__, ["thread", "process"])


@pytest.fixture(scope="module")
def path() -> Path:
    return tiny_model_dir(scale=4.0)


@pytest.fixture(scope="module")
def adapters(path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    found = {
        name: write_mlx(folder / name, path, rank=rank, seed=seed)
        for seed, (name, rank) in enumerate({"a": 8, "b": 4}.items())
    }
    return {**found, "peft": as_peft(found["a"], folder / "peft")}


@pytest.fixture(scope="module")
def expected(path: Path, adapters: dict[str, Path]) -> dict[str, list[int]]:
    """What mlx-lm makes of some ids with each adapter, and with none."""
    every = {"": None, "a": adapters["a"], "b": adapters["b"]}
    return {name: greedy(alone(path, adapter), IDS, TOKENS) for name, adapter in every.items()}


def setting(adapters: dict[str, Path], *names: str) -> list[str]:
    return [f"{name}={adapters[name]}" for name in names]


def said(engine: Engine, adapter: str = "") -> str:
    return engine.complete(IDS, **SHORT, ignore_eos=True, adapter=adapter).text


@pytest.mark.parametrize("host", HOSTS)
def test_requests_choose_by_name(
    path: Path, adapters: dict[str, Path], expected: dict[str, list[int]], host: str
) -> None:
    with Engine.load(path, engine_host=host, adapter=setting(adapters, *adapters)) as engine:
        texts = {name: said(engine, name) for name in ("", *adapters)}
        assert texts.items() >= {n: engine.detokenize(ids) for n, ids in expected.items()}.items()
        with pytest.raises(ModelNotFoundError, match=r"'c'\. Loaded: a, b, peft") as caught:
            engine.chat("Hi", adapter="c")
        assert caught.value.param == "adapter"
    assert texts["a"] == texts["peft"] and len(set(texts.values())) == 3


def cached(engine: Engine, adapter: str, text: str = STORY) -> int:
    return engine.chat(text, **SHORT, adapter=adapter).usage.cached_tokens


def test_stored_kv_is_kept_apart(path: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    """In memory, and on disk for another process; also where a name has other files later."""
    settings = {"kv_store": str(tmp_path / "kv"), "adapter": setting(adapters, "a", "b")}
    for life in range(2):
        with Engine.load(path, **settings) as engine:
            if not life:
                assert [cached(engine, name) for name in ("", "a", "b")] == [0, 0, 0]
            assert all(cached(engine, name) > 200 for name in ("", "a", "b"))
    moved = tmp_path / "a"
    shutil.copytree(adapters["a"], moved)
    with Engine.load(path, **settings | {"adapter": [f"c={moved}"]}) as engine:
        assert cached(engine, "c") > 200
        engine.remove_adapter("c")
        write_mlx(moved, path, seed=9)
        engine.add_adapter("c", moved)
        assert cached(engine, "c") == 0
        assert cached(engine, "c") > 200


def test_stored_replies_are_kept_apart(path: Path, adapters: dict[str, Path]) -> None:
    with Engine.load(path, adapter=setting(adapters, "a", "peft")) as engine:
        engine.add_adapter("again", adapters["a"])
        kept = {**SHORT, "cache": True}
        replies = {name: engine.chat("Hi", **kept, adapter=name) for name in ("", "a", "peft")}
        assert not any(reply.cached for reply in replies.values())
        assert replies[""].text != replies["a"].text
        for name in ("", "a", "again"):
            reply = engine.chat("Hi", **kept, adapter=name)
            assert reply.cached and reply.text == replies["a" if name else ""].text


def test_transcripts_are_kept_apart(path: Path, adapters: dict[str, Path]) -> None:
    """What one adapter wrote is not taken for the words of another."""
    sampled = {"temperature": 1, "max_tokens": TOKENS, "ignore_eos": True}
    with Engine.load(path, adapter=setting(adapters, "a", "b")) as engine:
        first = engine.chat("Say something odd.", **sampled, adapter="a")
        turns = [
            {"role": "user", "content": "Say something odd."},
            {"role": "assistant", "content": first.text},
            {"role": "user", "content": "More. " * 20},
        ]
        other = engine.chat(turns, **SHORT, adapter="b", explain_cache=True)
        again = engine.chat(turns, **SHORT, adapter="a", explain_cache=True)
    assert other.usage.cached_tokens == 0
    assert other.cache_explanation is not None
    assert other.cache_explanation.reason in ("never_seen", "other_namespace")
    assert again.usage.cached_tokens >= first.usage.completion_tokens


def test_sessions_are_of_one_adapter(path: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    book = [{"role": "system", "content": STORY}]
    asked = [*book, {"role": "user", "content": "Who?"}]
    plain, own = tmp_path / "plain", tmp_path / "own"
    names = setting(adapters, "a", "b")
    with Engine.load(path, adapter=names) as engine:
        engine.save_session(book, plain)
        engine.save_session(book, own, adapter="a")
        text = engine.chat(asked, **SHORT, adapter="a").text
    with Engine.load(path, adapter=names) as engine:
        for file, name, words in (
            (plain, "a", "was saved with no adapter"),
            (own, "", "was saved with another adapter"),
            (own, "b", "was saved with another adapter"),
        ):
            with pytest.raises(InvalidRequestError, match=words):
                engine.load_session(file, adapter=name)
        engine.load_session(own, adapter="a")
        assert engine.chat(asked, **SHORT).usage.cached_tokens == 0
        assert engine.chat(asked, **SHORT, adapter="b").usage.cached_tokens == 0
        reply = engine.chat(asked, **SHORT, adapter="a")
        assert reply.usage.cached_tokens > 200 and reply.text == text
    with Engine.load(path, adapter=names, session=[str(own), str(plain)]) as engine:
        lent = {name: engine.chat(asked, **SHORT, adapter=name) for name in ("", "a", "b")}
        assert lent["a"].text == text
        assert [each.usage.cached_tokens > 200 for each in lent.values()] == [True, True, False]
    with pytest.raises(ModelLoadError, match="another adapter"):
        Engine.load(path, session=[str(own)])


class Load:
    """Greedy streams that never pause, whose texts are compared in the end."""

    def __init__(self, engine: Engine, expected: dict[str, str], each: int = 2):
        self._engine, self._expected = engine, expected
        self._over = threading.Event()
        self.done: list[tuple[str, str]] = []
        self._threads = [
            threading.Thread(target=self._run, args=(name,))
            for name in expected
            for _ in range(each)
        ]

    def _run(self, name: str) -> None:
        while not self._over.is_set():
            self.done.append((name, said(self._engine, name)))

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        assert len(self.done) >= len(self._threads)
        assert all(self._expected[name] == text for name, text in self.done)


@pytest.mark.parametrize("host", HOSTS)
def test_adapters_come_and_go_under_load(
    path: Path, adapters: dict[str, Path], expected: dict[str, list[int]], host: str
) -> None:
    with Engine.load(path, engine_host=host, adapter=setting(adapters, "a")) as engine:
        texts = {name: engine.detokenize(ids) for name, ids in expected.items()}
        assert list(engine.adapters) == ["a"]
        weights = engine.status().budget.weights
        # Of the model and of the one that is there from the start.
        files = (path / "model.safetensors").stat().st_size
        assert 0 < weights - engine.adapters["a"].nbytes <= files
        with Load(engine, {name: texts[name] for name in ("", "a")}):
            for _ in range(3):
                added = engine.add_adapter("b", adapters["b"])
                assert engine.status().budget.weights == weights + added.nbytes
                assert said(engine, "b") == texts["b"]
                engine.remove_adapter("b")
                with pytest.raises(ModelNotFoundError, match="'b'"):
                    said(engine, "b")
        assert engine.status().budget.weights == weights
        for name, directory, words in (
            ("a", adapters["b"], "There is an adapter 'a' already"),
            ("a b", adapters["b"], "has letters"),
            ("../b", adapters["b"], "has letters"),
        ):
            with pytest.raises(InvalidRequestError, match=words):
                engine.add_adapter(name, directory)
        with pytest.raises(ModelLoadError, match="there is no such file"):
            engine.add_adapter("none", path)
        with pytest.raises(ModelNotFoundError, match=r"'none'\. Loaded: a\."):
            engine.remove_adapter("none")
        assert list(engine.adapters) == ["a"]


def test_a_removal_waits_for_requests(path: Path, adapters: dict[str, Path]) -> None:
    with Engine.load(path, adapter=setting(adapters, "a", "b")) as engine:
        engine.add_adapter("again", adapters["a"])
        # Another name of the same files: nothing to wait for.
        events = engine.stream("Hi", temperature=0, max_tokens=400, ignore_eos=True, adapter="a")
        next(events)
        engine.remove_adapter("again")
        removal = threading.Thread(target=engine.remove_adapter, args=("a",))
        removal.start()
        removal.join(0.2)
        assert removal.is_alive() and list(engine.adapters) == ["b"]
        *_, finished = events
        removal.join(60)
        assert not removal.is_alive() and finished.usage.completion_tokens == 400
        assert engine.adapters["b"].nbytes > 0


def core() -> psutil.Process:
    [found] = [
        child
        for child in psutil.Process().children(recursive=True)
        if "budmlx.core" in child.cmdline()
    ]
    return found


def test_a_core_that_is_restarted_has_the_same_adapters(
    path: Path, adapters: dict[str, Path], expected: dict[str, list[int]], tmp_path: Path
) -> None:
    lost = tmp_path / "lost"
    shutil.copytree(adapters["b"], lost)
    names = [*setting(adapters, "a"), f"lost={lost}"]
    with Engine.load(path, engine_host="process", adapter=names) as engine:
        texts = {name: engine.detokenize(ids) for name, ids in expected.items()}
        engine.add_adapter("b", as_peft(adapters["b"], tmp_path / "b"))
        events = engine.stream("Hi", temperature=0, max_tokens=300, ignore_eos=True, adapter="a")
        begun = [next(events)]
        shutil.rmtree(lost)
        os.kill(core().pid, signal.SIGKILL)
        whole = "".join(getattr(event, "text", "") for event in [*begun, *events])
        assert said(engine, "a") == texts["a"] and said(engine, "b") == texts["b"]
        assert said(engine) == texts[""]
        again = engine.chat("Hi", temperature=0, max_tokens=300, ignore_eos=True, adapter="a")
        assert whole == again.text
        with pytest.raises(ModelNotFoundError, match="was removed, or its files were"):
            said(engine, "lost")
        engine.remove_adapter("lost")
        engine.remove_adapter("b")
        assert list(engine.adapters) == ["a"]


def test_what_is_removed_while_the_core_restarts_does_not_come_back(
    path: Path, adapters: dict[str, Path], expected: dict[str, list[int]]
) -> None:
    with Engine.load(path, engine_host="process", adapter=setting(adapters, *adapters)) as engine:
        weights = engine.status().budget.weights
        gone = [engine.adapters[name].nbytes for name in "ab"]
        ending = core()
        ending.suspend()
        removal = threading.Thread(target=engine.remove_adapter, args=("a",))
        removal.start()
        removal.join(0.1)
        assert removal.is_alive()
        ending.kill()
        removal.join(60)
        assert not removal.is_alive()
        while "restarting" not in engine.status().reason:
            time.sleep(0.001)
        engine.remove_adapter("b")
        assert said(engine, "peft") == engine.detokenize(expected["a"])
        assert list(engine.adapters) == ["peft"]
        while engine.status().budget.weights != weights - sum(gone):
            time.sleep(0.01)
        assert engine.add_adapter("b", adapters["b"]).nbytes == gone[1]
        assert said(engine, "b") == engine.detokenize(expected["b"])


def test_a_removal_that_the_next_core_cannot_know() -> None:
    """That core is being loaded by then, with settings from before."""

    def nobody(change: object) -> None:
        raise EngineUnavailableError("The engine is restarting; try again.")

    adapters = HostAdapters(nobody)
    answers = [AdapterAnswer(AdapterSource(f"/{each}"), each) for each in "ab"]
    adapters.came(answers)
    adapters.remove("a")
    assert adapters.restarted(answers) == [RemoveAdapter(AdapterSource("/a", "a"))]
    assert list(adapters.loaded) == ["b"]
