"""Run with mounts of its own: what can be kept, where it cannot, and what is said of it.

argv: a directory, and a model. Prints, as JSON, messages by what was tried.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from budmlx import Engine, log_file
from budmlx.config import Config
from budmlx.errors import ConfigError
from budmlx.server.sealed import Sealer
from budmlx.server.stores import Stores


def mount(path: Path, *options: str) -> None:
    """Mount something in memory."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "none", path], check=True)


def tried(work: Callable[[], object]) -> str:
    """What is raised, as its message."""
    try:
        work()
    except ConfigError as error:
        return error.message
    return ""


def main(directory: Path, model: str) -> None:
    """Try everything."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    sealed, full = directory / "ro", directory / "full"
    for each in (sealed, full):
        each.mkdir()
    mount(sealed, "ro")
    mount(full, "nr_inodes=1")
    found = {
        "store": tried(lambda: Stores(Config.of(store=str(sealed / "a" / "store")))),
        "files": tried(lambda: Stores(Config.of(files_dir=str(sealed)))),
        "log": tried(lambda: log_file.take_over(sealed / "log")),
    }
    text = Sealer(sealed / "key").seal("thought")
    found["sealed"] = Sealer(sealed / "key").opened(text) or ""
    with Engine.load(model, engine_host="thread", kv_store=str(sealed / "kv")) as engine:
        prompt = "the quick brown fox " * 60
        found["reply"] = engine.chat(prompt, temperature=0, max_tokens=16).text
        again = engine.chat(prompt, temperature=0, max_tokens=16)
        found["again"] = again.text
    found["lines"] = "\n".join(lines)
    kept = os.dup(2)
    log_file.take_over(full / "log")  # There is no room for another file.
    found["full"] = os.readlink("/proc/self/fd/2")
    os.dup2(kept, 2)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
