"""Several models: turns between two of them, a load on demand, and what an unload gives back."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from budmlx.config import Config
from budmlx.engine.engine import Engine
from budmlx.engine.models.models import Models

NAMES = ("first", "second")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured. requests: of each kind. words: of a prompt."""

    requests: int = 40
    words: int = 60


DEFAULTS = Sizes()


def several(path: Path, sizes: Sizes = DEFAULTS) -> dict[str, float]:
    """Seconds to the first token: of one model, of two in turns, and of one that is loaded for it;
    and of the memory of a model, the share that is back two seconds after it was unloaded.

    path: the model, which is there under two names.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name in NAMES:
            os.symlink(path.absolute(), Path(folder) / name)
        with Models(Config(models_dir=(folder,), prefix_cache="0")) as models:
            before = _tree_bytes()
            loading = _first_token(models, NAMES[0], "Hello", sizes)
            models.load(NAMES[1])
            for name in NAMES:
                _first_token(models, name, "Hello", sizes)
            one, turns = [], []
            for number in range(sizes.requests):
                one.append(_first_token(models, NAMES[0], f"One {number}", sizes))
            for number in range(sizes.requests):
                name = NAMES[number % 2]
                turns.append(_first_token(models, name, f"Two {number}", sizes))
            loaded = _tree_bytes()
            models.unload(NAMES[1]).result()
            time.sleep(2.0)
            left = _tree_bytes()
    each = (loaded - before) / 2
    return {
        "one": statistics.median(one),
        "turns": statistics.median(turns),
        "load": loading,
        "returned": (loaded - left) / each,
    }


def _first_token(models: Models, name: str, text: str, sizes: Sizes) -> float:
    begin = time.perf_counter()
    with models.engine(name) as engine:
        return _ttft(engine, f"{text} " + "word " * sizes.words, begin)


def _ttft(engine: Engine, text: str, begin: float) -> float:
    events = engine.stream(text, max_tokens=2, temperature=0)
    next(events)
    seconds = time.perf_counter() - begin
    for _ in events:
        pass
    return seconds


def _tree_bytes() -> int:
    """Resident bytes of this process and of all that it started."""
    process = psutil.Process()
    return sum(each.memory_info().rss for each in (process, *process.children(recursive=True)))
