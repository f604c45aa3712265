"""A function that writes tiny encoders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoints import CONFIGS, write_model

Write = Callable[..., Path]


@pytest.fixture(scope="session")
def write(tmp_path_factory: pytest.TempPathFactory) -> Write:
    """Writes a model of a family. more: further settings of its configuration."""

    def write(kind: str, **more: Any) -> Path:
        path = tmp_path_factory.mktemp(kind)
        config = {**CONFIGS[kind], "model_type": kind, **more}
        write_model(path, config)
        return path

    return write
