"""The models that are measured when none is given."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

NAMES = {"cpu": "llama-28m", "gpu": "qwen3-2b-4bit"}


def cache_root() -> Path:
    """Where the bench keeps files; it may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "budmlx" / "bench"


def cached_model(shape: str, logits: str) -> Path:
    """The directory of a model of `bench.write_model`; written on the first call."""
    arguments = ["--shape", shape, "--logits", logits]
    return written(f"{NAMES[shape]}-{logits}", "bench.write_model", arguments)


def written(name: str, module: str, arguments: Sequence[str] = ()) -> Path:
    """What `python -m module DIRECTORY arguments` writes, kept until its source changes.

    Raises:
        subprocess.CalledProcessError: it failed, and has printed why.
    """
    root = cache_root()
    recipe = Path(__file__).with_name(f"{module.rpartition('.')[2]}.py")
    path = root / f"{name}-{hashlib.sha256(recipe.read_bytes()).hexdigest()[:8]}"
    if not path.exists():
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root) as scratch:
            # In a process of its own: this one keeps no MLX memory.
            new = Path(scratch) / path.name
            command = [sys.executable, "-m", module, str(new), *arguments]
            subprocess.run(command, check=True)
            new.rename(path)
    return path
