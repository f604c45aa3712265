"""KV size: what contexts will take, estimated from config.json before anything is loaded.

Keys and values take `2 * heads * head_dim` numbers for a token and layer, with the heads of
keys; latent attention (DeepSeek-V2, arXiv:2405.04434) keeps `kv_lora_rank + qk_rope_head_dim`.
Layers with a window keep no more tokens than that. Recurrent state, whose size does not depend on
the context, is left out. A loaded model knows the exact numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Layers that keep all tokens, and layers that keep those of a window, as config.json calls them.
_FULL = {"full_attention", "attention", "*", "hybrid"}
_WINDOW = {"sliding_attention", "chunked_attention", "sliding"}
_RECURRENT = ("mamba", "mamba2", "falcon_mamba", "rwkv7")
# Latent attention whose keys and values mlx-lm keeps for each head.
_UNPACKED = ("deepseek_v2", "minicpm3", "youtu_llm")
# Every so many layers one keeps all tokens, where config.json does not say how many.
_PATTERNS = {"gemma3_text": 6, "gemma3": 6, "cohere2": 4, "llama4_text": 4, "llama4": 4}
_MOST_LAYERS = 10_000


@dataclass(frozen=True, slots=True)
class _Layer:
    """What a layer keeps. numbers: for each token. window: most tokens; None for all."""

    numbers: int
    window: int | None = None

    def kept(self, tokens: int) -> int:
        """Numbers for a context."""
        return self.numbers * (tokens if self.window is None else min(tokens, self.window))


def kv_bytes(config: Mapping[str, Any], tokens: int, bytes_each: float = 2.0) -> int | None:
    """Bytes of keys and values of one row with so many tokens; None if that cannot be told.

    config: what config.json says. bytes_each: of a number.
    """
    text = config.get("text_config")
    text = text if isinstance(text, Mapping) else config
    kind = str(text.get("model_type") or config.get("model_type"))
    if kind in _RECURRENT:
        return 0
    try:
        layers = _layers(text, kind)
    except (TypeError, ValueError, KeyError, ZeroDivisionError):
        return None
    return int(bytes_each * sum(layer.kept(tokens) for layer in layers))


def _layers(text: Mapping[str, Any], kind: str) -> Sequence[_Layer]:
    """The layers that keep keys and values. Raises where config.json lacks what that takes."""
    numbers, wide = _numbers(text, kind), _numbers(text, kind, full=True)
    window = text.get("sliding_window") or text.get("attention_chunk_size")
    window = int(window or text.get("attention_window_size") or 0)
    kinds = _kinds(text, kind)
    kinds = kinds[: len(kinds) - int(text.get("num_kv_shared_layers") or 0)]
    return [
        _Layer(numbers, window) if each in _WINDOW and window else _Layer(wide)
        for each in kinds
        if each in _FULL | _WINDOW
    ]


def _numbers(text: Mapping[str, Any], kind: str, *, full: bool = False) -> int:
    """Numbers of a token in a layer. full: in one that keeps all tokens, if those differ."""
    heads = int(text.get("num_attention_heads") or text.get("n_head") or 0)
    if rank := text.get("kv_lora_rank"):
        rope = int(text["qk_rope_head_dim"])
        if kind not in _UNPACKED:
            return int(rank) + rope
        return heads * (int(text["qk_nope_head_dim"]) + rope + int(text["v_head_dim"]))
    hidden = int(text.get("hidden_size") or text.get("n_embd") or 0)
    size = int(text.get("head_dim") or hidden // heads)
    groups = 1 if text.get("multi_query") else int(text.get("num_key_value_heads") or heads)
    if full:
        size = int(text.get("global_head_dim") or size)
        groups = int(text.get("num_global_key_value_heads") or groups)
    if size < 1 or groups < 1:
        raise ValueError("no heads")
    return 2 * groups * size


def _kinds(text: Mapping[str, Any], kind: str) -> Sequence[str]:
    """The kinds of all layers."""
    count = int(text.get("num_hidden_layers") or text.get("n_layer") or 0)
    if not 0 < count <= _MOST_LAYERS:
        raise ValueError("no number of layers")
    for key in ("layer_types", "layers_block_type", "hybrid_override_pattern"):
        if listed := text.get(key):
            return list(listed)[:count] if isinstance(listed, list | str) else []
    if blocks := text.get("block_types"):
        # These are repeated; their attention has a window.
        names = ["sliding" if each == "attention" else str(each) for each in blocks]
        return [names[index % len(names)] for index in range(count)]
    if every := text.get("full_attention_interval"):
        return _every(int(every), int(every) - 1, count, "attention", "linear")
    if every := text.get("attn_layer_period"):
        return _every(int(every), int(text["attn_layer_offset"]), count, "attention", "linear")
    if every := text.get("sliding_window_pattern") or _PATTERNS.get(kind):
        return _every(int(every), int(every) - 1, count, "attention", "sliding")
    return ["attention"] * count


def _every(period: int, offset: int, count: int, one: str, others: str) -> Sequence[str]:
    return [one if index % period == offset else others for index in range(count)]
