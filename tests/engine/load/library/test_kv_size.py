"""Estimates of KV agree with the caches that models really make."""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.models.cache import make_prompt_cache

from budmlx.core.model import loading
from budmlx.core.model.memory import probe_layers
from budmlx.engine.load.library.facts import CONTEXT_KEYS
from budmlx.engine.load.library.kv_size import kv_bytes
from budmlx.testing.tiny_random import build
from tests.core.architectures import ARCHITECTURES, BASE, WINDOW

# These have heads of hidden_size / num_attention_heads, whatever else is said.
NO_HEAD_DIM = {"qwen2", "phi3", "jamba", "recurrent_gemma"}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_estimate_is_what_caches_take(name: str) -> None:
    config = ARCHITECTURES[name]
    if name in NO_HEAD_DIM:
        config = {key: value for key, value in config.items() if key != "head_dim"}
    module = build(config, seed=0)
    cache = make_prompt_cache(module)
    module(mx.zeros((1, 1), dtype=mx.int32), cache=cache)
    layers = probe_layers(cache, chunk=0)
    for tokens in (1, WINDOW - 1, 1000):
        expected = sum(each.per_token * min(tokens, each.window or tokens) for each in layers)
        assert kv_bytes(config, tokens, 4.0) == expected, tokens


def test_layers_that_config_json_lists_in_other_ways() -> None:
    each = 2 * 2 * 32 * 2

    def layers(**changes: Any) -> float:
        size = kv_bytes({**BASE, "model_type": "x", **changes}, 1000)
        assert size is not None
        return size / 1000 / each

    assert layers() == 2
    assert layers(num_hidden_layers=8, full_attention_interval=4) == 2
    assert layers(num_hidden_layers=4, hybrid_override_pattern="M*-*") == 2
    kinds = ["sliding_attention", "full_attention"] * 2
    shared = {"layer_types": kinds, "num_kv_shared_layers": 2, "sliding_window": 100}
    assert layers(num_hidden_layers=4, **shared) == 1.1
    wide = {"global_head_dim": 64, "num_global_key_value_heads": 1}
    assert layers(num_hidden_layers=4, layer_types=kinds, sliding_window=100, **wide) == 2.2
    assert layers(multi_query=True) == 1
    assert kv_bytes({"n_embd": 64, "n_head": 2, "n_layer": 3}, 10) == 3 * 2 * 64 * 2 * 10
    assert kv_bytes({"text_config": BASE}, 10) == 2 * each * 10


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*BASE]), inner),
    max_leaves=6,
)
KEYS = [*BASE, "model_type", "text_config", "layer_types", "block_types", "sliding_window"]
KEYS += ["full_attention_interval", "attn_layer_period", "num_kv_shared_layers", "kv_lora_rank"]


@given(changes=st.dictionaries(st.sampled_from(KEYS), JSON), tokens=st.integers(0, 10**7))
def test_any_config_gives_a_size_or_none(changes: dict[str, Any], tokens: int) -> None:
    size = kv_bytes({**BASE, **changes}, tokens)
    assert size is None or (size >= 0 and math.isfinite(size))


def test_the_core_reads_the_same_limits_of_context() -> None:
    assert CONTEXT_KEYS == loading.CONTEXT_KEYS
