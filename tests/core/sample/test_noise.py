"""The random numbers of rows and tokens: their distribution, and what they depend on."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from budmlx.core.sample.draw import exponentials, random_keys


def keys_of(seeds: object, choices: object, positions: object) -> mx.array:
    words = np.broadcast_arrays(seeds, choices, positions)
    return random_keys(*(np.array(x, dtype=np.uint64) for x in words))


def numbers(keys: mx.array, ids: mx.array) -> np.ndarray:
    return np.array(exponentials(keys, ids[None].astype(mx.uint32)))


def uniform(keys: mx.array, ids: mx.array) -> np.ndarray:
    """The numbers as shares of their distribution, float64 [rows, ids]."""
    return -np.expm1(-numbers(keys, ids).astype(np.float64))


def statistic(x: np.ndarray, y: np.ndarray) -> float:
    """Chi-square of pairs of numbers in [0, 1) in 8 x 8 classes; 63 degrees of freedom."""
    seen = np.bincount((x * 8).astype(int).ravel() * 8 + (y * 8).astype(int).ravel(), minlength=64)
    want = x.size / 64
    return float(((seen - want) ** 2 / want).sum())


# The 0.99999 quantile of chi-square with 63 degrees of freedom.
UNLIKELY_63 = 121.0


def test_numbers_are_exponentially_distributed() -> None:
    share = uniform(keys_of(7, 0, np.arange(256)), mx.arange(8192)).ravel()
    seen = np.bincount((share * 1000).astype(int), minlength=1000)
    want = share.size / 1000
    # 0.9999 quantile of chi-square with 999 degrees of freedom.
    assert ((seen - want) ** 2 / want).sum() < 1170


def test_small_numbers_are_as_rare_as_they_are_small() -> None:
    """They decide between unlikely tokens of a large vocabulary."""
    limits = (1e-3, 1e-5, 3e-7)
    found, total = np.zeros(len(limits)), 0
    for seed in range(8):
        small = numbers(keys_of(seed, 0, np.arange(32)), mx.arange(152_000))
        found += [int((small < limit).sum()) for limit in limits]
        total += small.size
    want = np.array(limits) * total
    assert (np.abs(found - want) < 4.5 * want**0.5).all()
    # They keep their digits: hardly two are equal.
    tiny = np.sort(small[small < 1e-4])
    assert (np.diff(tiny) > 0).mean() > 0.999


def test_neighbouring_ids_and_positions_are_independent() -> None:
    ids, positions = mx.arange(4096), np.arange(128)
    share = uniform(keys_of(1, 0, positions), ids)
    for distance in (1, 2, 16, 1024):
        assert statistic(share[:, :-distance], share[:, distance:]) < UNLIKELY_63
    assert statistic(share[:-1], share[1:]) < UNLIKELY_63
    assert statistic(share[:-1, :-1], share[1:, 1:]) < UNLIKELY_63


def test_ids_are_independent_over_many_keys() -> None:
    """For each pair of ids by itself, also those that differ in one bit."""
    keys = keys_of(np.arange(6000), 0, 3)
    ids = [0, 1, 2, 3, 4, 8, 64, 65, 4096, 65_536, 131_072, 151_935]
    share = uniform(keys, mx.array(ids))
    for i in range(len(ids)):
        for j in range(i):
            assert statistic(share[:, i], share[:, j]) < UNLIKELY_63 + 10, (ids[i], ids[j])


@pytest.mark.parametrize("other", [(9, 1, 0), (10, 0, 0), (2**63, 0, 0)], ids=str)
def test_choices_and_seeds_are_independent(other: tuple[int, int, int]) -> None:
    ids, positions = mx.arange(4096), np.arange(64)
    seed, choice, _ = other
    first = uniform(keys_of(9, 0, positions), ids)
    second = uniform(keys_of(seed, choice, positions), ids)
    assert statistic(first, second) < UNLIKELY_63


def test_a_number_depends_on_key_and_id_alone() -> None:
    keys = keys_of(np.arange(5), 0, 1)
    ids = mx.arange(3000)
    whole = numbers(keys, ids)
    some = mx.array([2999, 7, 512, 7])
    assert (numbers(keys, some) == whole[:, [2999, 7, 512, 7]]).all()
    assert (numbers(keys[3:4], ids) == whole[3:4]).all()
    assert whole.min() > 0 and np.isfinite(whole).all()
