"""Processes that write blocks until they are killed, forked from one without threads:
`python -m tests.core.reuse.kv_writer DIRECTORY LIMIT`, then a seed on each line of the standard
input.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
import time
from pathlib import Path

from budmlx.core.reuse.disk.files import ArraySpec, Layout
from budmlx.core.reuse.disk.store import BOUNDS, Bounds, KVStore, chain

LAYOUT: Layout = (ArraySpec("F32", (1, 2, 1, 48)), ArraySpec("BF16", (1, 1, 1, 640)))
BLOCK = 64
DEPTH = 4
CONVERSATIONS = 40


def open_store(
    directory: Path, limit: int = 2**30, identity: str = "a", bounds: Bounds = BOUNDS
) -> KVStore:
    return KVStore(directory, "org/model", identity, LAYOUT, limit, bounds)


def content(key: bytes, tokens: int) -> list[bytes]:
    """The only right bytes of a block's arrays."""
    return [
        hashlib.shake_128(bytes([number]) + key).digest(spec.nbytes(tokens))
        for number, spec in enumerate(LAYOUT)
    ]


def conversation(store: KVStore, number: int) -> list[tuple[list[bytes], int]]:
    """Paths and lengths of the blocks of a conversation; its last one ends early."""
    path = [store.root("somebody")]
    blocks = []
    for depth in range(DEPTH):
        tokens = BLOCK if depth < DEPTH - 1 else 1 + number % BLOCK
        path.append(chain(path[-1], range(number, number + tokens)))
        blocks.append((path[1:], tokens))
    return blocks


def fill(store: KVStore, numbers: list[int]) -> None:
    for number in numbers:
        for path, tokens in conversation(store, number):
            while not store.accepts:
                time.sleep(0.001)
            store.save(path, tokens, content(path[-1], tokens))


def settle(store: KVStore) -> None:
    """Wait until the writer has done all that it was given."""
    while store._queued:
        time.sleep(0.001)


def main() -> None:
    """Fork a writer for each line, and print its number once it writes."""
    directory, limit = Path(sys.argv[1]), int(sys.argv[2])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        if os.fork() == 0:
            rng = random.Random(int(line))
            store = open_store(directory, limit)
            print(os.getpid(), flush=True)
            while True:
                fill(store, rng.choices(range(CONVERSATIONS), k=8))
                time.sleep(0.001)


if __name__ == "__main__":
    main()
