"""KV size: what contexts will take, estimated from config.json before anything is loaded.

Keys and values take `2 * heads * head_dim` numbers for a token and layer, with the heads of
keys; latent attention (DeepSeek-V2, arXiv:2405.04434) keeps `kv_lora_rank + qk_rope_head_dim`.
Layers with a window keep no more tokens than that and a forward pass. Recurrent state, whose size
does not depend on the context, is left out. A loaded model knows the exact numbers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from budmlx.engine.load.library.pass_size import LEAST_CHUNK, PassSize

CHUNK = 2048
"""Tokens of a forward pass, where the device's number is not known."""
CACHE_STEP = 256
GROUP_SIZES = (64, 32)
"""As the core has them; a test compares them."""
# Layers that keep all tokens, and layers that keep those of a window, as config.json calls them.
_FULL = {"full_attention", "attention", "*", "hybrid"}
_WINDOW = {"sliding_attention", "chunked_attention", "sliding"}
_RECURRENT = ("mamba", "mamba2", "falcon_mamba", "rwkv7")
# Every layer has a state beside its keys and values.
_BESIDE_STATE = ("falcon_h1", "baichuan_m1", "longcat_flash_ngram")
# Its attention chooses blocks by their places in the cache, which drafts would change.
_READS_PLACES = ("minimax_m3_vl",)
# Latent attention whose keys and values mlx-lm keeps for each head.
_UNPACKED = ("deepseek_v2", "minicpm3", "youtu_llm")
# Every so many layers one keeps all tokens, where config.json does not say how many.
_PATTERNS = {"gemma3_text": 6, "cohere2": 4, "gpt_oss": 2, "llama4_text": 4, "llama4": 4}
_PATTERNS |= {"olmo3": 4}
# What mlx-lm assumes where config.json does not say it.
_ASSUMED = {"gemma3_text": {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256}}
# For these, mlx-lm makes caches that end with the window; others keep all tokens.
_WINDOWED = {
    *("afmoe", "baichuan_m1", "cohere2", "exaone4", "exaone_moe", "gear", "gemma3", "gemma3_text"),
    *("gemma3n", "gemma4", "gemma4_text", "gemma4_unified", "gpt_oss", "iquestcoder"),
    *("iquestloopcoder", "laguna", "llama", "llama4", "mellum", "mimo_v2_flash", "ministral3"),
    *("mistral", "muse_glimmer", "muse_spark", "olmo3", "plamo3", "recurrent_gemma", "spark2_5"),
    *("step3p5", "xverse"),
}
_MOST_LAYERS = 10_000


@dataclass(frozen=True, slots=True)
class _Layer:
    """What a layer keeps. widths: those of a head, of keys and of values. window: in tokens."""

    heads: int
    widths: tuple[int, int]
    window: int | None = None

    def kept(self, tokens: int, chunk: int) -> int:
        """Numbers for a context. Caches grow in steps."""
        if self.window is not None:
            tokens = min(tokens, self.window + chunk)
        return self.heads * sum(self.widths) * -(-tokens // CACHE_STEP) * CACHE_STEP


@dataclass(frozen=True, slots=True)
class KVLayout:
    """The keys and values that a model keeps of each row.

    itemsize: bytes of a number. group_size: numbers that share a scale and a bias where they are
    quantized; None if they cannot be. plain: layers keep the keys and values of all tokens, and
    nothing else. takes_back: the last tokens of a row can be taken back. drafter: what the draft
    model keeps of it, too. computed: what a forward pass takes, if config.json tells.
    """

    layers: tuple[_Layer, ...]
    itemsize: int
    group_size: int | None
    plain: bool
    takes_back: bool
    drafter: KVLayout | None = None
    computed: PassSize | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any], dtype: str) -> KVLayout | None:
        """What config.json describes; None where it does not have what that takes.

        dtype: of the weights that are not packed.
        """
        text = config.get("text_config")
        text = text if isinstance(text, Mapping) else config
        outer = str(config.get("model_type") or text.get("model_type"))
        kind = str(text.get("model_type") or outer)
        text = {**_ASSUMED.get(kind, {}), **text}
        itemsize = 4 if dtype == "F32" else 2
        if kind in _RECURRENT:
            return cls((), itemsize, None, plain=False, takes_back=False)
        try:
            layers, others = _layers(text, kind, windows=outer in _WINDOWED)
        except (TypeError, ValueError, KeyError, ZeroDivisionError, OverflowError):
            return None
        plain = not others and all(layer.window is None for layer in layers)
        widths = {width for layer in layers for width in layer.widths}
        sizes = (size for size in GROUP_SIZES if not any(width % size for width in widths))
        group_size = next(sizes, None) if plain else None
        # Chunks end where they are full.
        takes_back = plain or not (others or text.get("attention_chunk_size"))
        takes_back = takes_back and outer not in _READS_PLACES
        computed = _computed(text, itemsize, layers)
        return cls(tuple(layers), itemsize, group_size, plain, takes_back, computed=computed)

    def row_bytes(self, tokens: int, kv_bits: int | None = None, chunk: int = CHUNK) -> int:
        """Bytes for one row with so many tokens.

        kv_bits: of quantized numbers. chunk: most tokens of one forward pass.
        """
        each: float = self.itemsize
        if kv_bits is not None and self.group_size is not None:
            each = kv_bits / 8 + 2 * self.itemsize / self.group_size
        own = int(each * sum(layer.kept(tokens, chunk) for layer in self.layers))
        return own if self.drafter is None else own + self.drafter.row_bytes(tokens, None, chunk)

    def longest_row(
        self, room: int, most: int, kv_bits: int | None = None, chunk: int = LEAST_CHUNK
    ) -> int:
        """Tokens of the longest row within `room` bytes: it may be copied once, as it grows, and
        forward passes compute with it.

        most: tokens that are enough.
        """

        def size(count: int) -> int:
            kept = self.row_bytes(count, kv_bits, chunk)
            return 2 * kept + self._pass_bytes(count, chunk, quantized=kv_bits is not None)

        return bisect_right(range(1, most + 1), room, key=size)

    def _pass_bytes(self, tokens: int, chunk: int, *, quantized: bool) -> int:
        quantized = quantized and self.group_size is not None
        own = 0
        if self.computed is not None:
            own = self.computed.row_bytes(tokens, chunk, quantized=quantized)
        if self.drafter is None:
            return own
        return max(own, self.drafter._pass_bytes(tokens, chunk, quantized=False))


def _computed(text: Mapping[str, Any], itemsize: int, layers: Sequence[_Layer]) -> PassSize | None:
    head = max((width for layer in layers for width in layer.widths), default=0)
    unpacked = max((layer.heads * sum(layer.widths) * itemsize for layer in layers), default=0)
    try:
        return PassSize.of(text, itemsize=itemsize, head=head, unpacked=unpacked)
    except (TypeError, ValueError):
        return None


def with_drafter(layout: KVLayout | None, drafter: KVLayout | None) -> KVLayout | None:
    """What a model and its draft model keep; None if that is not known of one of them."""
    if layout is None or drafter is None:
        return None
    return replace(layout, drafter=drafter)


def _layers(text: Mapping[str, Any], kind: str, *, windows: bool) -> tuple[list[_Layer], bool]:
    """The layers that keep keys and values, and whether there are others, which keep a state.

    windows: layers that look back at a window keep no more than that. Raises where
    config.json lacks what that takes.
    """
    window = text.get("sliding_window") or text.get("attention_chunk_size")
    window = int(window or text.get("attention_window_size") or 0) if windows else 0
    windowed, full = _layer(text, kind, window or None), _layer(text, kind, None)
    kinds = _kinds(text, kind)
    kinds = kinds[: len(kinds) - int(text.get("num_kv_shared_layers") or 0)]
    layers = [windowed if each in _WINDOW else full for each in kinds if each in _FULL | _WINDOW]
    return layers, kind in _BESIDE_STATE or len(layers) < len(kinds)


def _layer(text: Mapping[str, Any], kind: str, window: int | None) -> _Layer:
    """A layer that keeps the tokens of a window, or all."""
    heads = int(text.get("num_attention_heads") or text.get("n_head") or 0)
    if rank := text.get("kv_lora_rank"):
        rope = int(text["qk_rope_head_dim"])
        if kind not in _UNPACKED:
            return _Layer(1, (int(rank), rope), window)
        return _Layer(heads, (int(text["qk_nope_head_dim"]) + rope, int(text["v_head_dim"])))
    hidden = int(text.get("hidden_size") or text.get("n_embd") or 0)
    size = int(text.get("head_dim") or hidden // heads)
    groups = 1 if text.get("multi_query") else int(text.get("num_key_value_heads") or heads)
    if window is None:
        size = int(text.get("global_head_dim") or size)
        if text.get("attention_k_eq_v"):
            groups = int(text.get("num_global_key_value_heads") or groups)
    if size < 1 or groups < 1:
        raise ValueError("no heads")
    return _Layer(groups, (size, size), window)


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
