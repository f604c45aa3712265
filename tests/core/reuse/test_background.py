"""What only the background used goes before all others, and takes little of their place."""

from __future__ import annotations

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from budmlx import Engine
from budmlx.core.reuse.checkpoints import Checkpoint, Checkpoints
from budmlx.core.reuse.tree import BACKGROUND_SHARE, Block, PrefixTree
from tests.amount import examples
from tests.models import tiny_model_dir

LIMIT = 40
"""Bytes; a block of two tokens has five."""


def put(tree: PrefixTree, *ids: int, low: bool = False) -> None:
    tree.insert("", ids, 0, [((n, ids), 5) for n in range(len(ids) // 2)], low=low)


def has(tree: PrefixTree, *ids: int) -> bool:
    return tree.stored("", ids) == len(ids)


def everything(tree: PrefixTree) -> list[Block]:
    found, left = [], list(tree._roots.values())
    while left:
        block = left.pop()
        left += block.children
        found += [block] if block.parent is not None else []
    return found


def test_the_background_goes_first_and_others_stay() -> None:
    tree = PrefixTree(LIMIT, 2)
    for n in range(4):
        put(tree, n, 0)
    for n in range(50):
        put(tree, 100 + n, 0, low=True)
    assert all(has(tree, n, 0) for n in range(4))
    kept = [n for n in range(50) if has(tree, 100 + n, 0)]
    assert kept == [46, 47, 48, 49]
    for n in range(4):
        put(tree, 10 + n, 0)
    assert all(has(tree, n, 0) and has(tree, 10 + n, 0) for n in range(4))
    assert not any(has(tree, 100 + n, 0) for n in range(50))


def test_what_others_use_is_theirs() -> None:
    tree = PrefixTree(LIMIT, 2)
    put(tree, 1, 1, 2, 2, low=True)
    tree.match("", (1, 1, 2, 2))
    for n in range(50):
        put(tree, 100 + n, 0, low=True)
    assert has(tree, 1, 1, 2, 2)
    tree.match("", (199, 0), low=True)
    for n in range(6):
        put(tree, n + 10, 0)
    assert has(tree, 1, 1, 2, 2) and not has(tree, 149, 0)


def test_it_takes_a_share_of_the_place_of_others() -> None:
    tree = PrefixTree(LIMIT, 2)
    for n in range(8):
        put(tree, n, 0)
    for n in range(50):
        put(tree, 100 + n, 0, low=True)
    assert [n for n in range(50) if has(tree, 100 + n, 0)] == [48, 49]
    assert [n for n in range(8) if has(tree, n, 0)] == [2, 3, 4, 5, 6, 7]


IDS = st.lists(st.integers(0, 1), min_size=1, max_size=9).map(tuple)
STEPS = st.lists(st.tuples(st.sampled_from(["put", "match", "resize"]), IDS, st.booleans()))


@given(STEPS)
@settings(max_examples=examples(200))
def test_histories(steps: list[tuple[str, tuple[int, ...], bool]]) -> None:
    tree = PrefixTree(LIMIT, 2)
    for what, ids, low in steps:
        before = {id(each) for each in everything(tree) if each not in tree._low}
        if what == "put":
            values = [((n, ids), 5) for n in range(-(-len(ids) // 2))]
            rich = tree._low_bytes >= BACKGROUND_SHARE * tree.limit
            tree.insert("", ids, 0, values, low=low)
            if low and rich:
                assert before <= {id(each) for each in everything(tree)}, "others stay"
        elif what == "match":
            match = tree.match("", ids, low=low)
            match.pin()
            match.unpin()
        else:
            tree.resize(5 * len(ids))
        found = everything(tree)
        assert sum(each.nbytes for each in found) == tree.nbytes <= tree.limit
        assert sum(each.nbytes for each in found if each in tree._low) == tree._low_bytes
        assert len(found) == len(tree._low) + len(tree._order)
        for each in found:
            assert each.parent not in tree._low or each in tree._low


def checkpoint(number: int, *, low: bool = False) -> Checkpoint:
    return Checkpoint.of("", [number], [_State()], low=low)


class _State:
    """A cache entry of 8 bytes."""

    def __init__(self) -> None:
        self.state = [mx.zeros(2)]
        self.keys = self.state[0]


def test_checkpoints() -> None:
    one = checkpoint(0).nbytes
    assert one > 0
    kept = Checkpoints(8 * one)
    for n in range(8):
        kept.store(checkpoint(n))
    for n in range(50):
        kept.store(checkpoint(100 + n, low=True))
    assert [n for n in range(50) if kept.stored("", [100 + n])] == [48, 49]
    assert [n for n in range(8) if kept.stored("", [n])] == [2, 3, 4, 5, 6, 7]
    assert kept.find("", [148], 0) and kept.find("", [149], 0, low=True)
    kept.store(checkpoint(9))
    assert kept.stored("", [148]) and not kept.stored("", [149])


@pytest.mark.parametrize("low", [True, False])
def test_a_conversation_survives_a_batch(low: bool) -> None:
    def ask(text: str, priority: str) -> int:
        return engine.chat(text, max_tokens=2, priority=priority).usage.cached_tokens

    path = tiny_model_dir(scale=2.0)
    with Engine.load(path, engine_host="thread", prefix_cache="400KiB") as engine:
        own = "word " * 60
        ask(own, "interactive")
        for n in range(40):
            ask(f"{n} " * 60, "background" if low else "interactive")
        assert (ask(own, "interactive") > 0) == low
