"""The response cache that ships, and the contract of all of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from budmlx.builtin.memory_cache import ENTRY_BYTES, MemoryCache, provide_response_cache
from budmlx.config import Config


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 400)), max_size=40))
def test_it_never_holds_more_than_its_limit(steps: list[tuple[str, int]]) -> None:
    cache = MemoryCache(1000)
    for key, size in steps:
        cache.set(key, b"x" * size, None)
        assert cache.stats().bytes <= 1000
        assert cache.get(key) == b"x" * size
    assert cache.stats().bytes == sum(
        1 + len(cache.get(key) or b"") + ENTRY_BYTES
        for key in "abcdef"
        if cache.get(key) is not None
    )


def test_the_least_recently_used_goes_first() -> None:
    cache = MemoryCache(2 * (ENTRY_BYTES + 2))
    cache.set("a", b"1", None)
    cache.set("b", b"2", None)
    assert cache.get("a") == b"1"
    cache.set("c", b"3", None)
    assert [cache.get(key) for key in "abc"] == [b"1", None, b"3"]


def test_what_is_larger_than_the_cache_replaces_nothing_else() -> None:
    cache = MemoryCache(400)
    cache.set("a", b"1", None)
    cache.set("b", b"x" * 400, None)
    assert cache.get("a") == b"1" and cache.get("b") is None


def test_its_size_is_a_setting() -> None:
    cache = provide_response_cache(Config.of(cache_size=0))
    cache.set("a", b"", None)
    assert cache.get("a") is None
