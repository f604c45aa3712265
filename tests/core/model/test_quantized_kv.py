"""Quantized KV caches: as mlx-lm's plain ones in all but what they hold, alone and in models."""

from __future__ import annotations

import functools
import random
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.base import scaled_dot_product_attention
from mlx_lm.models.cache import BatchKVCache, KVCache

from budmlx import Engine
from budmlx.config import Config
from budmlx.core.model.memory import arrays_of, fill
from budmlx.core.model.model import Model
from budmlx.core.model.quantized_kv import BatchQuantizedCache, QuantizedCache
from budmlx.core.model.scores import ALL_SCORES
from budmlx.errors import ConfigError, ModelLoadError
from tests.amount import usually
from tests.core.architectures import ARCHITECTURES, BASE
from tests.core.driver import Driver, load, request
from tests.core.reuse.test_blocks import Reusing, cold, words
from tests.models import tiny_model_dir

HEADS = 2
CONFIGS = {
    **{name: ARCHITECTURES[name] for name in ("llama", "qwen3_moe")},
    "wide": {**BASE, "model_type": "qwen3", "head_dim": 64},
}


@functools.cache
def model_of(name: str, bits: int | None) -> Model:
    return load(tiny_model_dir(CONFIGS[name], scale=3.0, seed=7), kv_bits=bits)


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
    form = {"group_size": quantized.group_size, "bits": quantized.kv_bits}
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


@pytest.mark.parametrize(
    ("name", "bits"),
    usually(lambda case: case[0] != "qwen3_moe", [("llama", 8), ("wide", 4), ("qwen3_moe", 8)]),
)
def test_rows_in_batches_equal_rows_alone(name: str, bits: int) -> None:
    """They come alone, together and midway, in chunks and padded; one is cancelled."""
    model = model_of(name, bits)
    assert model.info.batchable and model.paddable
    lengths = [1, 2, 5, 16, 17, 24, 60, 9, 11, 30]
    rows = [request(i, words(i, n), max_tokens=16 + i) for i, n in enumerate(lengths)]
    want = cold(model, *rows)
    driver = Driver(model, prefill_chunk=32)
    for row in rows[:6]:
        driver.submit(row)
        driver.turns(3)
    driver.submit(*rows[6:])
    driver.turns(4)
    driver.scheduler.cancel(8)
    driver.run()
    begun = driver.tokens[8]
    assert 8 not in driver.reasons and begun == want[8][: len(begun)]
    assert {**driver.tokens, 8: want[8]} == want


@pytest.mark.parametrize(
    ("name", "bits"), usually(("llama", 4).__eq__, [("wide", 8), ("llama", 4)])
)
def test_prefix_hits_change_nothing(name: str, bits: int) -> None:
    """Hits of all lengths, evictions, cancelled rows, and rows that are sent back."""
    model = model_of(name, bits)
    rng = random.Random(bits)
    stems = [words(100 + i, n) for i, n in enumerate((20, 45, 90))]
    rows = []
    for key in range(24):
        stem = rng.choice(stems)
        prompt = [*stem[: rng.randrange(1, len(stem) + 1)], *words(key, rng.randrange(12))]
        rows.append(request(key, prompt, max_tokens=rng.randrange(1, 16)))
    want = cold(model, *rows)
    limit = 150 * sum(layer.per_token for layer in model.memory.layers)
    driver = Reusing(model, limit=limit, prefill_chunk=32, max_rows=6)
    gone = set()
    for row in rows:
        driver.submit(row)
        driver.turns(rng.randrange(4))
        if rng.random() < 0.2 and row.id not in driver.reasons:
            gone.add(row.id)
            driver.scheduler.cancel(row.id)
        if rng.random() < 0.2:
            driver.scheduler._requeue([r for p in driver.prompts for r in p.rows][:1])
    driver.run()
    for key, tokens in driver.tokens.items():
        assert tokens == (want[key][: len(tokens)] if key in gone else want[key])
    assert sum(map(bool, driver.cached.values())) > 6, "too few hits to prove anything"
    assert 0 < driver.reuse.tree.nbytes <= limit
    driver.at_rest()


@pytest.mark.parametrize("bits", [8, 4])
def test_a_repeated_prompt_is_not_computed_again(bits: int) -> None:
    driver = Reusing(model_of("llama", bits), block=256, least=16)
    prompt = words(1, 700)
    first = driver.once(request(1, prompt, max_tokens=8))
    assert driver.once(request(2, prompt, max_tokens=8)) == first
    assert driver.cached[2] == 699


def test_logits_stay_close_to_those_of_plain_caches() -> None:
    tokens = mx.array([words(1, 200)])
    logits = {}
    for bits in (None, 8, 4):
        model = model_of("wide", bits)
        logits[bits] = model(tokens, model.new_cache())
    spread = mx.std(logits[None]).item()
    error = {bits: mx.sqrt(mx.mean((logits[bits] - logits[None]) ** 2)).item() for bits in (8, 4)}
    print(spread, error)
    assert 0 < error[8] < 0.02 * spread < error[4]


def cache_of(name: str) -> Any:
    """The plain cache of the first layer."""
    model = model_of(name, None)
    cache = model.new_cache()
    model(mx.array([[5]]), cache)
    return cache[0]


@pytest.mark.parametrize("name", CONFIGS)
def test_rows_take_the_projected_memory(name: str) -> None:
    """8 bits and their scales take 9 or 10 of 32 bits, 4 bits take 5 or 6."""
    plain = model_of(name, None).memory.row(300)
    group = 64 if name == "wide" else 32
    for bits in (8, 4):
        model = model_of(name, bits)
        cache = model.new_cache()
        mx.eval(model(mx.array([[5] * 300]), cache))
        assert model.memory.row(300) == sum(entry.nbytes for entry in cache)
        assert model.memory.row(300) / plain == (bits + 64 / group) / 32
        assert model.memory.scores == ALL_SCORES
        numbers = sum(array.shape[1] * array.shape[3] for array in arrays_of(cache_of(name)))
        assert model.memory.unpacked == 4 * numbers


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (ARCHITECTURES["gemma3_text"], "RotatingKVCache"),
        (ARCHITECTURES["gpt_oss"], "RotatingKVCache"),
        (ARCHITECTURES["mamba"], "ArraysCache"),
        (ARCHITECTURES["falcon_h1"], "CacheList"),
        (ARCHITECTURES["llama4"], "ChunkedKVCache"),
        ({**BASE, "model_type": "llama", "head_dim": 80}, "have 80 numbers"),
    ],
)
def test_models_that_cannot_say_so_at_load(config: dict[str, Any], reason: str) -> None:
    path = tiny_model_dir(config)
    with pytest.raises(ModelLoadError, match=f"{reason}.*Leave kv_bits out"):
        load(path, kv_bits=8)
    load(path)


@pytest.mark.parametrize(
    "config",
    [{**ARCHITECTURES["deepseek_v3"], "qk_rope_head_dim": 32}, ARCHITECTURES["gemma2"]],
)
def test_attention_of_its_own_takes_them(config: dict[str, Any]) -> None:
    """Models that compute with keys and values themselves, as plain caches give them."""
    path = tiny_model_dir(config, scale=0.3)
    plain, quantized = load(path), load(path, kv_bits=8)
    tokens = mx.array([words(1, 60)])
    logits = [model(tokens, model.new_cache()) for model in (plain, quantized)]
    assert mx.abs(logits[0] - logits[1]).max().item() < 0.1 * mx.std(logits[0]).item()


def reference(queries: mx.array, keys: mx.array, values: mx.array, mask: mx.array) -> np.ndarray:
    """Attention in float64."""
    q, k, v = (np.array(x.astype(mx.float32), np.float64) for x in (queries, keys, values))
    k, v = (np.repeat(x, q.shape[1] // x.shape[1], axis=1) for x in (k, v))
    scores = np.where(np.array(mask), q @ k.swapaxes(2, 3) / np.sqrt(q.shape[3]), -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True) @ v


@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize("tokens", [1, 16])
@pytest.mark.parametrize(("bits", "group_size"), [(8, 64), (4, 64), (4, 32)])
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16, mx.float32])
def test_attention_errs_no_more_than_over_plain_numbers(
    dtype: mx.Dtype, bits: int, group_size: int, tokens: int, sinks: bool
) -> None:
    """What errs is the rounding of what is stored, and not of the scores."""
    mx.random.seed(bits + group_size + tokens)
    held = [mx.random.normal((1, HEADS, 96 - pad, 128)).astype(dtype) for pad in (0, 5, 9)]
    rows = [QuantizedCache(bits, group_size) for _ in held]
    for row, numbers in zip(rows, held, strict=True):
        row.update_and_fetch(numbers, 0.5 * numbers)
    batch = QuantizedCache.merge(rows)
    mask = batch.make_mask(tokens)
    queries = 3 * mx.random.normal((len(held), 4 * HEADS, tokens, 128)).astype(dtype)
    new = mx.random.normal((len(held), HEADS, tokens, 128)).astype(dtype)
    keys, values = batch.update_and_fetch(new, new)
    form = {"group_size": group_size, "bits": bits}
    for stored, unpacked in ((batch.keys, keys), (batch.values, values)):
        packed = (array[..., : batch.size(), :] for array in stored)
        assert mx.array_equal(unpacked, mx.dequantize(*packed, **form))
    assert keys.dtype == values.dtype == dtype
    extra = {"sinks": mx.full(4 * HEADS, -1e4, dtype)} if sinks else {}
    scale = 128**-0.5
    attended = scaled_dot_product_attention(
        queries, keys, values, cache=batch, scale=scale, mask=mask, **extra
    )
    assert attended.dtype == dtype
    want = reference(queries, keys, values, mask)
    plain = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)
    errors = [np.abs(np.array(x.astype(mx.float32)) - want).max() for x in (attended, plain)]
    print(dtype, errors)
    assert errors[0] <= errors[1] * 1.01
    assert errors[0] < (1e-5 if dtype == mx.float32 else 0.1)


def test_the_setting_reaches_the_core() -> None:
    path = tiny_model_dir(ARCHITECTURES["llama"], scale=3.0)
    found = {}
    for bits in (None, 8):
        with Engine.load(path, kv_bits=bits) as engine:
            found[bits] = engine.info.fingerprint
            assert engine.chat("Hello", max_tokens=5, temperature=0).usage.completion_tokens == 5
    assert found[8] != found[None], "replies and KV of one would be taken for the other's"
    with pytest.raises(ModelLoadError, match="kv_bits"):
        Engine.load(tiny_model_dir(ARCHITECTURES["mamba"]), kv_bits=4)
    with pytest.raises(ConfigError, match="kv_bits"):
        Config.of(kv_bits=6)
