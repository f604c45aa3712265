"""Estimates of KV agree with the caches that models really make."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx_lm.models.cache
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx_lm.models.cache import make_prompt_cache

from budmlx.core.model import memory, quantized_kv
from budmlx.core.model.loading import CAN_BE_CUT, TAKES_BACK
from budmlx.core.model.memory import probe_layers
from budmlx.core.model.quantized_kv import cache_maker
from budmlx.engine.load.library import kv_size
from budmlx.engine.load.library.kv_size import CACHE_STEP, KVLayout
from budmlx.errors import ModelLoadError
from budmlx.testing.tiny_random import build
from tests.core.architectures import ARCHITECTURES, BASE, WINDOW

# These have heads of hidden_size / num_attention_heads, whatever else is said.
NO_HEAD_DIM = {"qwen2", "phi3", "jamba", "recurrent_gemma"}
LENGTHS = (1, WINDOW, 300, 4000)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_estimate_is_what_caches_take(name: str) -> None:
    config = ARCHITECTURES[name]
    if name in NO_HEAD_DIM:
        config = {key: value for key, value in config.items() if key != "head_dim"}
    layout = KVLayout.of(config, "F32")
    assert layout is not None
    module = build(config, seed=0)
    cache = make_prompt_cache(module)
    module(mx.zeros((1, 1), dtype=mx.int32), cache=cache)
    for chunk in (1, 512):
        layers = probe_layers(cache, chunk)
        for tokens in LENGTHS:
            expected = sum(each.row_bytes(tokens) - each.fixed for each in layers)
            assert layout.row_bytes(tokens, chunk=chunk) == expected, (chunk, tokens)
    check_quantized(module, layout)
    # The caches of these models keep every token unless they keep something else.
    assert layout.plain == all(type(entry) in CAN_BE_CUT for entry in cache)
    assert layout.takes_back == all(type(entry) in TAKES_BACK for entry in cache)


def check_quantized(module: Any, layout: KVLayout) -> None:
    """Whether KV can be quantized is told, and what it takes then."""
    try:
        cache = cache_maker(module, 8)()
    except ModelLoadError:
        assert layout.group_size is None
        return
    assert layout.group_size == 32
    module(mx.zeros((1, 1), dtype=mx.int32), cache=cache)
    for tokens in LENGTHS:
        expected = sum(each.row_bytes(tokens) for each in probe_layers(cache, 1))
        assert layout.row_bytes(tokens, 8) == expected


def test_layers_that_config_json_lists_in_other_ways() -> None:
    each = 2 * 2 * 32 * 2 * CACHE_STEP

    def layers(tokens: int = CACHE_STEP, **changes: Any) -> float:
        layout = KVLayout.of({**BASE, "model_type": "gemma4_text", **changes}, "BF16")
        assert layout is not None
        return layout.row_bytes(tokens, chunk=56) / each

    assert layers() == 2
    assert layers(num_hidden_layers=8, full_attention_interval=4) == 2
    assert layers(num_hidden_layers=4, hybrid_override_pattern="M*-*") == 2
    kinds = ["sliding_attention", "full_attention"] * 2
    shared = {"layer_types": kinds, "num_kv_shared_layers": 2, "sliding_window": 200}
    assert layers(10 * CACHE_STEP, num_hidden_layers=4, **shared) == 11
    wide = {"layer_types": kinds, "sliding_window": 200, "global_head_dim": 128}
    wide |= {"num_global_key_value_heads": 1, "attention_k_eq_v": True}
    assert layers(10 * CACHE_STEP, num_hidden_layers=4, **wide) == 2 + 2 * 2 * 10
    wide["attention_k_eq_v"] = False
    assert layers(10 * CACHE_STEP, num_hidden_layers=4, **wide) == 2 + 4 * 2 * 10
    assert layers(multi_query=True) == 1
    old = KVLayout.of({"n_embd": 64, "n_head": 2, "n_layer": 3}, "F32")
    assert old is not None and old.row_bytes(256) == 3 * 2 * 64 * 4 * 256
    nested = KVLayout.of({"text_config": BASE}, "F32")
    assert nested == KVLayout.of(BASE, "F32") and nested is not None


def test_what_mlx_lm_assumes_is_assumed() -> None:
    """Most configurations of Gemma 3 do not say their heads; others list windows in vain."""
    small: dict[str, Any] = {"model_type": "gemma3_text"}
    small |= {key: BASE[key] for key in ("hidden_size", "intermediate_size", "rms_norm_eps")}
    kinds = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": WINDOW}
    moe = {"num_local_experts": 2, "num_experts_per_tok": 1, "rope_scaling": None}
    for config in (
        {"model_type": "gemma3", "vocab_size": 64}
        | {"text_config": {**small, "num_hidden_layers": 7, "sliding_window": WINDOW}},
        {**BASE, **moe, "model_type": "gpt_oss", "num_hidden_layers": 4, "sliding_window": WINDOW},
        {**BASE, "model_type": "olmo3", "num_hidden_layers": 5, "sliding_window": WINDOW},
        {**BASE, "model_type": "qwen3", **kinds},
        {"model_type": "mistral3", "text_config": {**BASE, "model_type": "llama", **kinds}},
    ):
        layout = KVLayout.of(config, "F32")
        module = build(json.loads(json.dumps(config)), seed=0)
        cache = make_prompt_cache(module)
        module(mx.zeros((1, 1), dtype=mx.int32), cache=cache)
        expected = sum(each.row_bytes(4000) for each in probe_layers(cache, 1))
        assert layout is not None and layout.row_bytes(4000, chunk=1) == expected, config


def test_mlx_lm_keeps_windows_for_the_same_architectures() -> None:
    folder = Path(mlx_lm.models.cache.__file__).parent
    caches = re.compile(r"(Rotating|Chunked)KVCache\(")
    names = {file.stem for file in folder.glob("*.py") if caches.search(file.read_text("utf-8"))}
    assert names - {"cache"} <= kv_size._WINDOWED


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*BASE]), inner),
    max_leaves=6,
)
KEYS = [*BASE, "model_type", "text_config", "layer_types", "block_types", "sliding_window"]
KEYS += ["full_attention_interval", "attn_layer_period", "num_kv_shared_layers", "kv_lora_rank"]


@given(changes=st.dictionaries(st.sampled_from(KEYS), JSON), tokens=st.integers(0, 10**7))
def test_any_config_gives_a_size_or_none(changes: dict[str, Any], tokens: int) -> None:
    layout = KVLayout.of({**BASE, **changes}, "BF16")
    if layout is not None:
        for bits in (None, 4, 8):
            assert layout.row_bytes(tokens, bits) >= 0


def test_the_core_has_the_same_numbers() -> None:
    assert memory.CACHE_STEP == CACHE_STEP
    assert quantized_kv.GROUP_SIZES == kv_size.GROUP_SIZES
