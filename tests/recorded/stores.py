"""Recorded files, and the model that they belong to."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.models import tiny_model_dir

HERE = Path(__file__).parent
KV_STORE = HERE / "kv_store"
SESSION = HERE / "session"
FILES = HERE / "files"
KEYS = HERE / "keys"
ABOUT = HERE / "stores.json"
CONFIG_FILE = HERE / "config.toml"
CONFIG_VALUES = HERE / "config.json"

MODEL: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-5,
    "vocab_size": 512,
    "rope_theta": 10000.0,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
WEIGHTS = "model.safetensors"
# Files on disk belong to weights that have not changed since.
CHANGED = 1_700_000_000_000_000_000
BOOK = [{"role": "system", "content": "Once upon a time there was a fox. " * 18}]
QUESTION = [*BOOK, {"role": "user", "content": "Who?"}]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 6}


def recorded_model(folder: Path, seed: int = 0) -> Path:
    """The model, built anew in a directory that is always called the same."""
    path = folder / f"seed-{seed}" / "recorded-llama"
    shutil.copytree(tiny_model_dir(MODEL, seed=seed, scale=4.0), path)
    os.utime(path / WEIGHTS, ns=(CHANGED, CHANGED))
    return path


def maker(model: Path) -> dict[str, str]:
    """All that decides whether files of that model can be used again."""
    return {
        "mlx": version("mlx"),
        "mlx-lm": version("mlx-lm"),
        "machine": f"{platform.system()} {platform.machine()}",
        "weights": hashlib.sha256((model / WEIGHTS).read_bytes()).hexdigest(),
        "config": hashlib.sha256((model / "config.json").read_bytes()).hexdigest(),
    }


def about() -> dict[str, Any]:
    """What was written down when the files were recorded."""
    found: dict[str, Any] = json.loads(ABOUT.read_text("utf-8"))
    return found
