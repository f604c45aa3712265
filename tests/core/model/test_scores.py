"""Where attention stores its scores: by device, by heads, by what a model does to them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mlx.core as mx
import pytest

from budmlx.core.model.memory import CacheLayer, MemoryModel
from budmlx.core.model.memory_policy import DeviceMemory
from budmlx.core.model.scores import (
    ALL_SCORES,
    AttentionHeads,
    StoredScores,
    attention_heads,
    caps_scores,
    stored_scores,
)
from budmlx.core.model.shape import Shape
from tests.core.architectures import ARCHITECTURES
from tests.core.driver import load
from tests.models import tiny_model_dir

METAL = DeviceMemory("metal", 2**36, 2**35)
HOPPER = DeviceMemory("cuda", 2**36, capability=9)
TURING = DeviceMemory("cuda", 2**36, capability=7)
CPU = DeviceMemory("cpu", 2**36)


def heads(keys: int, values: int | None = None, count: int = 8) -> AttentionHeads:
    return AttentionHeads(keys, values or keys, count)


@pytest.mark.parametrize(
    ("layers", "prefill", "decode"),
    [
        ([heads(64)], False, False),
        ([heads(128)], False, False),
        ([heads(80)], False, True),
        ([heads(72)], False, True),
        ([heads(192)], True, True),
        ([heads(256)], True, False),  # Gemma: the unfused path is the faster one
        ([heads(128), heads(256)], True, False),  # layers of both kinds
        ([heads(512, 64, 1)], True, True),  # MLA
        ([heads(192, 128)], True, True),
        ([heads(32)], True, True),
        ([heads(128, count=1)], False, False),
        ([], False, False),  # recurrent layers only
    ],
)
def test_metal(layers: list[AttentionHeads], prefill: bool, decode: bool) -> None:
    assert StoredScores.on(METAL, layers, 32, half=True) == StoredScores(prefill, decode)


def test_metal_cannot_share_a_head_among_many_queries_in_decode() -> None:
    stored = StoredScores.on(METAL, [heads(128, count=1)], 33, half=True)
    assert stored == StoredScores(prefill=False, decode=True)


@pytest.mark.parametrize(
    ("device", "width", "half", "prefill"),
    [
        (HOPPER, 128, True, False),
        (HOPPER, 96, True, False),
        (HOPPER, 128, False, True),
        (HOPPER, 256, True, True),
        (HOPPER, 60, True, True),
        (TURING, 128, True, True),
    ],
)
def test_cuda(device: DeviceMemory, width: int, half: bool, prefill: bool) -> None:
    assert StoredScores.on(device, [heads(width)], 32, half=half) == StoredScores(prefill, True)


def test_a_cpu_stores_them() -> None:
    assert StoredScores.on(CPU, [heads(64)], 32, half=True) == ALL_SCORES


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama", {AttentionHeads(32, 32, 2)}),
        ("gemma3_text", {AttentionHeads(32, 32, 2)}),
        ("mamba", set()),
    ],
)
def test_heads_are_those_of_the_caches(name: str, expected: set[AttentionHeads]) -> None:
    assert found(name) == expected


@pytest.mark.parametrize("name", ["falcon_h1", "jamba"])
def test_layers_that_attend_are_found_among_others(name: str) -> None:
    assert len(found(name)) == 1


def test_mla_attends_to_what_has_another_width() -> None:
    assert all(layer.keys != layer.values for layer in found("deepseek_v3"))


def found(name: str) -> set[AttentionHeads]:
    model = load(tiny_model_dir(ARCHITECTURES[name]))
    cache = model.new_cache()
    model(mx.zeros((1, 1), dtype=mx.int32), cache)
    return attention_heads(cache)


@pytest.mark.parametrize(("name", "caps"), [("gemma2", True), ("gemma3_text", False)])
def test_capped_scores_are_stored_everywhere(name: str, caps: bool) -> None:
    assert caps_scores(load(tiny_model_dir(ARCHITECTURES[name])).module) == caps


@pytest.mark.parametrize("bits", [None, 8])
@pytest.mark.parametrize(("width", "stores"), [(64, False), (32, True)])
def test_quantized_kv_is_unpacked_for_the_same_kernels(
    bits: int | None, width: int, stores: bool
) -> None:
    config = {**ARCHITECTURES["llama"], "hidden_size": 4 * width, "head_dim": width}
    model = load(tiny_model_dir(config), kv_bits=bits)
    cache = model.new_cache()
    model(mx.zeros((1, 1), dtype=mx.int32), cache)
    stored = stored_scores(METAL, model.module, cache, model.memory.shape)
    assert stored == StoredScores(stores, decode=stores)


def projection(**changes: Any) -> MemoryModel:
    memory = MemoryModel(
        limit=2**40,
        weights=2**30,
        layers=(CacheLayer(per_token=4096),) * 32,
        shape=Shape(hidden=4096, intermediate=12288, heads=32, vocab=151936, itemsize=2),
        scores=StoredScores(prefill=False, decode=False),
        arrays=64,
    )
    return replace(memory, **changes)


def test_stored_scores_take_memory_where_they_are_stored() -> None:
    fused = projection()
    prefill = projection(scores=StoredScores(prefill=True, decode=False))
    decode = projection(scores=StoredScores(prefill=False, decode=True))
    length = 100_000
    chunk = 512 * 32 * length * 8
    assert prefill.activations(1, 512, length) - fused.activations(1, 512, length) == chunk
    assert decode.activations(1, 512, length) == fused.activations(1, 512, length)
    step = 16 * 32 * length * 8
    assert decode.activations(16, 1, length) - fused.activations(16, 1, length) == step
    assert prefill.activations(16, 1, length) == fused.activations(16, 1, length)


def test_a_row_may_be_longer_where_they_are_not() -> None:
    tight = {"limit": 24 * 2**30}
    stored = projection(scores=ALL_SCORES, **tight).longest_row(2**20, 512)
    assert stored < projection(**tight).longest_row(2**20, 512)
