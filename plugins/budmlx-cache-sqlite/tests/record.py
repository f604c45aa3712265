"""Writes the recorded file anew: `python tests/record.py`, where the plugin is installed."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from budmlx_cache_sqlite import SqliteCache

from budmlx import Engine
from budmlx.testing.tiny_random import write_random_model

HERE = Path(__file__).parent / "recorded"
FILE = HERE / "responses.sqlite"
VALUES = HERE / "values.json"
LONG = 2.0**31
"""Seconds: what is recorded does not expire."""


def main() -> None:
    """Keep a few values, and the replies of an engine."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILE.name
        cache = SqliteCache(path, 2**20)
        values = {"a": b"one", "b" * 64: bytes(range(256)), "empty": b"", "ü": "größe".encode()}
        for key, value in values.items():
            cache.set(key, value, LONG)
        cache.close()
        model = write_random_model(Path(folder) / "model", scale=2.0)
        option = (f"cache-sqlite.path={path}",)
        with Engine.load(model, plugin=("cache-sqlite",), plugin_option=option) as engine:
            engine.chat("Hello", max_tokens=5, temperature=0, cache={"ttl": LONG})
            engine.chat("Hello", max_tokens=5, n=2, seed=1, logprobs=1, cache={"ttl": LONG})
        db = SqliteCache(path, 2**20)
        entries = db._run(lambda found: found.execute("SELECT key, value FROM replies").fetchall())
        db.close()
        VALUES.write_text(json.dumps({k: v.hex() for k, v in entries}, indent=1) + "\n", "utf-8")
        shutil.copyfile(path, FILE)


if __name__ == "__main__":
    main()
