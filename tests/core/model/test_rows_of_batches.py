"""Rows of batches: taken out and kept as mlx-lm does it, but by numbers that the host has."""

from __future__ import annotations

import copy
import random
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models.cache import ArraysCache, CacheList, KVCache, RotatingKVCache

from budmlx.core.model.memory import keep_rows, row_of
from budmlx.core.model.quantized_kv import QuantizedCache

WINDOW = 8


class Window(RotatingKVCache):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__(max_size=WINDOW)


class Pair(CacheList):  # type: ignore[misc]
    """Keys and values of one layer in both kinds of cache, beside a state."""

    def __init__(self) -> None:
        super().__init__(KVCache(), RotatingKVCache(max_size=WINDOW), ArraysCache(1))


def write(rng: random.Random, entry: Any, rows: int, tokens: int) -> None:
    if isinstance(entry, CacheList):
        for each in entry.caches:
            write(rng, each, rows, tokens)
        return
    shape = (rows, 2, tokens, 64)
    keys, values = (mx.random.normal(shape, key=mx.random.key(rng.getrandbits(32))) for _ in "kv")
    if isinstance(entry, ArraysCache):
        entry[0] = keys[:, :, -1]
    else:
        entry.update_and_fetch(keys, values)


def some_rows(rng: random.Random, kind: Any) -> tuple[Any, list[int]]:
    """A batch, and the tokens of each of its rows."""
    rows, held = [], []
    for _ in range(rng.randrange(1, 4)):
        entry, count = kind(), 0
        for tokens in rng.choices((1, 3, 7, 8, 9, 20), k=rng.randrange(1, 3)):
            write(rng, entry, 1, tokens)
            count += tokens
        rows.append(entry)
        held.append(count)
    return rows[0].merge(rows), held


def assert_same(got: Any, want: Any) -> None:
    assert type(got) is type(want)
    if isinstance(want, CacheList):
        for pair in zip(got.caches, want.caches, strict=True):
            assert_same(*pair)
        return
    assert got.nbytes == want.nbytes and got.size() == want.size()
    states = [[leaf for _, leaf in tree_flatten(each.state)] for each in (got, want)]
    for mine, theirs in zip(*states, strict=True):
        if isinstance(theirs, mx.array):
            assert mx.array_equal(mine, theirs)
        else:
            assert mine == theirs


@pytest.mark.parametrize("kind", [KVCache, Window, Pair, lambda: QuantizedCache(8, 32)])
@pytest.mark.parametrize("seed", range(8))
def test_rows_are_those_of_mlx_lm(kind: Any, seed: int) -> None:
    rng = random.Random(seed)
    batch, held = some_rows(rng, kind)
    for _ in range(14):
        match rng.choice(["step", "step", "steps", "join", "leave"]):
            case "step" | "steps" as count:
                for _ in range(1 if count == "step" else rng.randrange(2, WINDOW + 3)):
                    write(rng, batch, len(held), 1)
                    held = [each + 1 for each in held]
            case "join":
                other, others = some_rows(rng, kind)
                batch.extend(other)
                held += others
            case "leave":
                rows = sorted(rng.sample(range(len(held)), rng.randrange(1, len(held) + 1)))
                held = [held[row] for row in rows]
                theirs = copy.deepcopy(batch)
                theirs.filter(mx.array(rows))
                keep_rows(batch, rows, held)
                assert_same(batch, theirs)
        for index, tokens in enumerate(held):
            assert_same(row_of(batch, index, tokens), batch.extract(index))
