"""Tiny real models for the tests, built once per process and configuration."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from budmlx.testing.tiny_random import LLAMA, write_random_model

_ROOT = tempfile.TemporaryDirectory(prefix="budmlx-test-models-")


@cache
def _model_dir(key: str) -> Path:
    spec = json.loads(key)
    name = f"{spec['config']['model_type']}-{abs(hash(key)):x}"
    return write_random_model(
        Path(_ROOT.name) / name,
        spec["config"],
        bits=spec["bits"],
        seed=spec["seed"],
        scale=spec["scale"],
    )


def tiny_model_dir(
    config: Mapping[str, Any] = LLAMA,
    *,
    bits: int | None = None,
    seed: int = 0,
    scale: float = 1.0,
) -> Path:
    """A directory with a random-weight model and a byte-level tokenizer."""
    key = json.dumps(
        {"config": dict(config), "bits": bits, "seed": seed, "scale": scale}, sort_keys=True
    )
    return _model_dir(key)


ALWAYS_THINKING = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:<think>\n"
)
"""A template that opens the reasoning, and reads neither a switch nor an effort."""


def thinking_model_dir(path: Path) -> Path:
    """Write a model whose prompts end inside of reasoning, which it never ends itself."""
    shutil.copytree(tiny_model_dir(scale=4.0), path)
    (path / "chat_template.jinja").write_text(ALWAYS_THINKING)
    return path
