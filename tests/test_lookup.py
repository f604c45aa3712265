"""What is kept within limits, and what is found by the beginnings of token ids."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from budmlx.lookup import Bounded, Prefix, PrefixIndex


def test_the_least_recently_used_goes_first() -> None:
    kept: Bounded[str, int] = Bounded(count=2)
    for number, key in enumerate("abc"):
        kept.put(key, number)
    assert kept.values() == [1, 2]
    assert kept.get("b") == 1 and kept.peek("c") == 2
    kept.put("d", 3)
    assert kept.values() == [1, 3] and "c" not in kept and kept.get("c") is None


def test_costs_stay_within_the_limit() -> None:
    left: list[str] = []
    kept: Bounded[str, str] = Bounded(limit=10, removed=left.append)
    assert kept.put("a", "x", 4) and kept.put("b", "y", 6)
    assert not kept.put("c", "z", 11) and kept.cost == 10 and not left
    assert kept.put("a", "w", 5) and (left, kept.cost) == (["a", "b"], 5)
    assert not kept.put("a", "v", 11) and len(kept) == 0  # the former value is not kept either
    kept.put("d", "u", 10)
    kept.resize(9)
    assert (len(kept), kept.cost) == (0, 0)
    kept.put("e", "t", 1)
    kept.clear()
    assert left[-1] == "e" and kept.pop("e") is None and kept.cost == 0


Ids = st.lists(st.integers(0, 2), max_size=6)


@given(st.lists(st.tuples(st.sampled_from("ab"), Ids), max_size=12), Ids)
def test_every_beginning_is_found_in_order(
    entries: list[tuple[str, list[int]]], asked: list[int]
) -> None:
    index: PrefixIndex[tuple[str, list[int]]] = PrefixIndex(count=5)
    for name, ids in entries:
        index.put(Prefix.of(name, ids), (name, ids), 1)
    walk, found = index.walk("a"), []
    while (value := walk.next(asked)) is not None:
        assert walk.place == len(value[1]) and walk.key == Prefix.of("a", value[1])
        found.append(value[1])
    recent = list({(name, *ids): (name, ids) for name, ids in reversed(entries)}.values())[:5]
    wanted = [ids for name, ids in recent if name == "a" and ids == asked[: len(ids)] != []]
    assert found == sorted(wanted, key=len)


def test_the_rest_of_the_ids_may_change_on_the_way() -> None:
    index: PrefixIndex[str] = PrefixIndex(limit=3)
    index.put(Prefix.of("", [1, 2]), "short", 1)
    index.put(Prefix.of("", [1, 2, 9, 4]), "long", 1)
    walk = index.walk("")
    assert walk.next([1, 2, 3, 4]) == "short"
    assert walk.next([1, 2, 9, 4, 5]) == "long" and walk.next([1, 2, 9, 4, 5]) is None
    assert not index.put(Prefix.of("", [1, 2]), "costly", 4)
    assert list(index.lengths(0, 10)) == [4]
