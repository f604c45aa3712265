"""Quantized KV caches: as mlx-lm's plain ones in all but what they hold, alone and in models."""

from __future__ import annotations

import random
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models.cache import BatchKVCache, KVCache

from budmlx.core.kv import arrays_of, fill
from budmlx.core.quantized_cache import BatchQuantizedCache, QuantizedCache

HEADS = 2


def content(rng: random.Random, rows: int, tokens: int, group_size: int) -> list[mx.array]:
    """Keys and values of some tokens; keys are wider, as in some models."""
    return [
        mx.random.normal((rows, HEADS, tokens, width), key=mx.random.key(rng.getrandbits(32)))
        for width in (2 * group_size, group_size)
    ]


def assert_twins(plain: Any, quantized: Any) -> None:
    """The same tokens in the same places, each quantized as if it were alone."""
    assert quantized.size() == plain.size() and quantized.empty() == plain.empty()
    assert mx.array_equal(mx.array(quantized.offset), mx.array(plain.offset))
    masks = [
        cache.make_mask(3, return_array=True, window_size=None) for cache in (plain, quantized)
    ]
    assert mx.array_equal(*masks)
    if plain.empty():
        return
    padding = plain.left_padding.tolist() if isinstance(plain, BatchKVCache) else [0]
    held = [array[..., : plain.size(), :] for array in arrays_of(quantized)]
    form = {"group_size": quantized.group_size, "bits": quantized.bits}
    wanted = [
        array
        for x in (plain.keys, plain.values)
        for array in mx.quantize(x[..., : plain.size(), :], **form)
    ]
    for row, left in enumerate(padding):
        for got, want in zip(held, wanted, strict=True):
            assert mx.array_equal(got[row, :, left:], want[row, :, left:])


def write(rng: random.Random, tokens: int, *pair: Any) -> None:
    rows = len(pair[0].left_padding) if isinstance(pair[0], BatchKVCache) else 1
    keys, values = content(rng, rows, tokens, pair[1].group_size)
    for cache in pair:
        cache.update_and_fetch(keys, values)
    assert_twins(*pair)


def row_pair(rng: random.Random, bits: int, group_size: int, least: int = 0) -> tuple[Any, Any]:
    pair = KVCache(), QuantizedCache(bits, group_size)
    for _ in range(rng.randrange(least, 3)):
        write(rng, rng.choice((1, 1, 2, 7, 255, 256, 257)), *pair)
    return pair


def batch_pair(rng: random.Random, bits: int, group_size: int, least: int = 0) -> tuple[Any, Any]:
    pairs = [row_pair(rng, bits, group_size, least) for _ in range(rng.randrange(1, 4))]
    plain, quantized = zip(*pairs, strict=True)
    return plain[0].merge(plain), quantized[0].merge(quantized)


@pytest.mark.parametrize(("bits", "group_size"), [(8, 64), (8, 32), (4, 64), (4, 32)])
def test_batches_hold_what_mlx_lms_batches_hold(bits: int, group_size: int) -> None:
    """Whatever joins, leaves, is padded, taken out or trimmed, in any order."""
    rng = random.Random(bits * group_size)
    for _ in range(6):
        plain, quantized = batch_pair(rng, bits, group_size)
        assert isinstance(quantized, BatchQuantizedCache)
        for _ in range(12):
            rows = len(plain.left_padding)
            match rng.choice(["step", "step", "pass", "join", "leave", "out", "trim"]):
                case "step":
                    write(rng, 1, plain, quantized)
                case "pass":
                    counts = [rng.randrange(1, 40) for _ in range(rows)]
                    padding = [max(counts) - count for count in counts]
                    for cache in (plain, quantized):
                        cache.prepare(lengths=counts, right_padding=padding)
                    write(rng, max(counts), plain, quantized)
                    for cache in (plain, quantized):
                        cache.finalize()
                case "join":
                    others = batch_pair(rng, bits, group_size)
                    plain.extend(others[0])
                    quantized.extend(others[1])
                case "leave":
                    kept = mx.array(rng.sample(range(rows), rng.randrange(1, rows + 1)))
                    plain.filter(kept)
                    quantized.filter(kept)
                case "out" if not plain.empty():
                    index = rng.randrange(rows)
                    assert_twins(plain.extract(index), quantized.extract(index))
                case "trim" if min(plain.offset.tolist()) > 1:
                    assert plain.trim(1) == quantized.trim(1)
            assert_twins(plain, quantized)


@pytest.mark.parametrize("tokens", [1, 255, 300])
def test_rows_grow_as_plain_ones_do(tokens: int) -> None:
    rng = random.Random(tokens)
    pair = KVCache(), QuantizedCache(8, 32)
    for _ in range(3):
        write(rng, tokens, *pair)
        assert arrays_of(pair[1])[0].shape[2] == arrays_of(pair[0])[0].shape[2]
        assert pair[1].nbytes == sum(array.nbytes for array in arrays_of(pair[1]))


def test_arrays_are_cut_and_filled_alike_for_both_kinds() -> None:
    rng = random.Random(1)
    pair = row_pair(rng, 8, 64, least=1)
    cut = rng.randrange(1, pair[0].offset + 1)
    copies = KVCache(), QuantizedCache(8, 64)
    for source, copy in zip(pair, copies, strict=True):
        assert arrays_of(copy) == []
        fill(copy, [array[..., :cut, :] for array in arrays_of(source)], cut)
        assert copy.offset == cut and len(arrays_of(copy)) == len(arrays_of(source))
    assert_twins(*copies)
    write(rng, 5, *copies)
