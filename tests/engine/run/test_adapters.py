"""Adapters through the whole engine: chosen by name, kept apart, added and removed under load."""

from __future__ import annotations

from pathlib import Path

import pytest

from budmlx import Engine
from budmlx.errors import ModelNotFoundError
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
