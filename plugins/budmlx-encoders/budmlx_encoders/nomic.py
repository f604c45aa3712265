"""Nomic's BERT. Only the core imports this."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn

from budmlx_encoders.encoder import ACTIVATIONS, Encoder, attend, split

OLD_NAMES = {
    "hidden_size": "n_embd",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
    "intermediate_size": "n_inner",
    "layer_norm_eps": "layer_norm_epsilon",
    "hidden_act": "activation_function",
    "max_position_embeddings": "n_positions",
}
"""Settings that the repositories of Nomic name as GPT-2 does."""
PLAIN: Mapping[str, Any] = {
    "prenorm": False,
    "use_rms_norm": False,
    "qkv_proj_bias": False,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None,
    "parallel_block": False,
    "num_experts": 0,
}
"""Settings of which only this value is known here."""


class Embeddings(nn.Module):
    """Sum of the embeddings of tokens and kinds of text, normalized."""

    def __init__(self, vocab: int, kinds: int, hidden: int, eps: float):
        super().__init__()
        self.word_embeddings = nn.Embedding(vocab, hidden)
        self.token_type_embeddings = nn.Embedding(kinds, hidden)
        self.LayerNorm = nn.LayerNorm(hidden, eps=eps)

    def __call__(self, tokens: mx.array, second: mx.array | None) -> mx.array:
        """The output, in the shape of the input but for its width."""
        kinds = mx.zeros_like(tokens) if second is None else second.astype(tokens.dtype)
        return self.LayerNorm(self.word_embeddings(tokens) + self.token_type_embeddings(kinds))


class Layer(nn.Module):
    """Attention with rotary positions and a gated layer, each followed by its normalization."""

    def __init__(self, config: Mapping[str, Any], base: float):
        super().__init__()
        hidden, inner = config["hidden_size"], config["intermediate_size"]
        eps = config["layer_norm_eps"]
        self._heads = config["num_attention_heads"]
        self._activation = ACTIVATIONS[config["hidden_act"]]
        self._rope = nn.RoPE(hidden // self._heads, base=base)
        self.qkv = nn.Linear(hidden, 3 * hidden, bias=False)
        self.o_proj = nn.Linear(hidden, hidden, bias=False)
        self.post_attention_layernorm = nn.LayerNorm(hidden, eps=eps)
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)
        self.post_mlp_layernorm = nn.LayerNorm(hidden, eps=eps)

    def __call__(self, x: mx.array, mask: mx.array) -> mx.array:
        """The output, in the shape of the input but for its width."""
        q, k, v = (split(part, self._heads) for part in mx.split(self.qkv(x), 3, axis=-1))
        out = self.o_proj(attend(self._rope(q), self._rope(k), v, self._heads, mask))
        x = self.post_attention_layernorm(x + out)
        inner = self._activation(self.gate_proj(x)) * self.up_proj(x)
        return self.post_mlp_layernorm(x + self.down_proj(inner))


class Nomic(Encoder):
    """nomic-embed-text and its kind, without mixtures of experts."""

    renamed: ClassVar = {
        r"^encoder\.layers\.": "layers.",
        r"^emb_ln\.": "embeddings.LayerNorm.",
        r"\.(self_attn|attn|mlp)\.": ".",
        r"\.Wqkv\.": ".qkv.",
        r"\.out_proj\.": ".o_proj.",
        r"\.fc11\.": ".up_proj.",
        r"\.fc12\.": ".gate_proj.",
        r"\.fc2\.": ".down_proj.",
        r"\.norm1\.": ".post_attention_layernorm.",
        r"\.norm2\.": ".post_mlp_layernorm.",
    }

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        for name, known in PLAIN.items():
            if config.get(name, known) != known:
                raise ValueError(f"{name} {config[name]!r} is not known")
        old = {new: config[name] for new, name in OLD_NAMES.items() if name in config}
        config = {"hidden_act": "silu", "layer_norm_eps": 1e-12, **old, **config}
        self.context_length = int(config.get("max_position_embeddings", 2048))
        kinds = config.get("type_vocab_size", 2)
        hidden, eps = config["hidden_size"], config["layer_norm_eps"]
        self.embeddings = Embeddings(config["vocab_size"], kinds, hidden, eps)
        rope = config.get("rope_parameters") or {}
        base = rope.get("rope_theta") or config.get("rotary_emb_base") or 1000.0
        self.layers = [Layer(config, float(base)) for _ in range(config["num_hidden_layers"])]

    def encode(self, tokens: mx.array, mask: mx.array, second: mx.array | None = None) -> mx.array:
        """See `Encoder`."""
        x, seen = self.embeddings(tokens, second), mask[:, None, None, :]
        for layer in self.layers:
            x = layer(x, seen)
        return x

    def kept(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """See `Encoder`. Newer checkpoints have queries, keys and values apart."""
        kept = {name: x for name, x in weights.items() if not name.startswith("pooler.")}
        for number in range(len(self.layers)):
            apart = [f"layers.{number}.{part}_proj.weight" for part in "qkv"]
            if apart[0] in kept:
                joined = mx.concatenate([kept.pop(name) for name in apart])
                kept[f"layers.{number}.qkv.weight"] = joined
        return kept
