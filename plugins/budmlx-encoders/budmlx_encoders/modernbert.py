"""ModernBERT. Only the core imports this."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn

from budmlx_encoders.encoder import ACTIVATIONS, Encoder, attend, is_classifier, labels, split

BASES = {"full_attention": 160_000.0, "sliding_attention": 10_000.0}
OLD_BASES = {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"}


class Attention(nn.Module):
    """Attention with rotary positions."""

    def __init__(self, config: Mapping[str, Any], kind: str):
        super().__init__()
        hidden, bias = config["hidden_size"], config.get("attention_bias", False)
        self._heads = config["num_attention_heads"]
        self.Wqkv = nn.Linear(hidden, 3 * hidden, bias=bias)
        self.Wo = nn.Linear(hidden, hidden, bias=bias)
        self._rope = nn.RoPE(hidden // self._heads, base=_base(config, kind))

    def __call__(self, x: mx.array, mask: mx.array) -> mx.array:
        """The output, in the shape of the input but for its width."""
        q, k, v = (split(part, self._heads) for part in mx.split(self.Wqkv(x), 3, axis=-1))
        return self.Wo(attend(self._rope(q), self._rope(k), v, self._heads, mask))


class FeedForward(nn.Module):
    """A gated feed-forward layer."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        hidden, inner = config["hidden_size"], config["intermediate_size"]
        bias = config.get("mlp_bias", False)
        self._activation = ACTIVATIONS[config.get("hidden_activation", "gelu")]
        self.Wi = nn.Linear(hidden, 2 * inner, bias=bias)
        self.Wo = nn.Linear(inner, hidden, bias=bias)

    def __call__(self, x: mx.array) -> mx.array:
        """The output, in the shape of the input but for its width."""
        inside, gate = mx.split(self.Wi(x), 2, axis=-1)
        return self.Wo(self._activation(inside) * gate)


class Layer(nn.Module):
    """Attention and a feed-forward layer, each behind its normalization; the first has none.

    near: tokens see only those that are near.
    """

    def __init__(self, config: Mapping[str, Any], number: int, kind: str):
        super().__init__()
        self.near = kind == "sliding_attention"
        if number:
            self.attn_norm = _norm(config)
        self.attn = Attention(config, kind)
        self.mlp_norm = _norm(config)
        self.mlp = FeedForward(config)

    def __call__(self, x: mx.array, mask: mx.array) -> mx.array:
        """The output, in the shape of the input but for its width."""
        x = x + self.attn(self.attn_norm(x) if "attn_norm" in self else x, mask)
        return x + self.mlp(self.mlp_norm(x))


class Embeddings(nn.Module):
    """The embeddings of tokens, normalized."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        self.tok_embeddings = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.norm = _norm(config)

    def __call__(self, tokens: mx.array) -> mx.array:
        """The output, in the shape of the input but for its width."""
        return self.norm(self.tok_embeddings(tokens))


class Head(nn.Module):
    """The layer before the classifier."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        hidden = config["hidden_size"]
        self._activation = ACTIVATIONS[config.get("classifier_activation", "gelu")]
        self.dense = nn.Linear(hidden, hidden, bias=config.get("classifier_bias", False))
        self.norm = _norm(config)

    def __call__(self, x: mx.array) -> mx.array:
        """The output, in the shape of the input but for its width."""
        return self.norm(self._activation(self.dense(x)))


class ModernBert(Encoder):
    """ModernBERT: most layers see only what is near."""

    renamed: ClassVar = {r"^model\.": ""}

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        self.context_length = config.get("max_position_embeddings", 8192)
        self._reach = config.get("local_attention", 128) // 2
        self._means = config.get("classifier_pooling", "cls") == "mean"
        self.embeddings = Embeddings(config)
        self.layers = [Layer(config, *each) for each in enumerate(_kinds(config))]
        self.final_norm = _norm(config)
        if is_classifier(config):
            self.head = Head(config)
            self.classifier = nn.Linear(config["hidden_size"], labels(config))

    def encode(self, tokens: mx.array, mask: mx.array, second: mx.array | None = None) -> mx.array:
        """See `Encoder`. What the second text of a pair is makes no difference here."""
        places = mx.arange(tokens.shape[1])
        far = mask[:, None, None, :]
        near = far & (mx.abs(places[:, None] - places[None, :]) <= self._reach)
        # What sees nothing but padding would be no number.
        near = near | (places[:, None] == places[None, :])
        x = self.embeddings(tokens)
        for layer in self.layers:
            x = layer(x, near if layer.near else far)
        return self.final_norm(x)

    def classify(
        self, tokens: mx.array, mask: mx.array, second: mx.array | None = None
    ) -> mx.array:
        """See `Encoder`."""
        states = self.encode(tokens, mask)
        if self._means:
            kept = mx.where(mask[..., None], states, 0)
            pooled = kept.sum(axis=1) / mask.sum(axis=1, keepdims=True)
        else:
            pooled = states[:, 0]
        return self.classifier(self.head(pooled))

    def kept(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """See `Encoder`."""
        heads = tuple(f"{name}." for name in ("head", "classifier") if name not in self)
        return {name: x for name, x in weights.items() if not name.startswith(heads or ("\0",))}


def _norm(config: Mapping[str, Any]) -> nn.LayerNorm:
    eps, bias = config.get("norm_eps", 1e-5), config.get("norm_bias", False)
    return nn.LayerNorm(config["hidden_size"], eps=eps, bias=bias)


def _kinds(config: Mapping[str, Any]) -> list[str]:
    """What each layer sees, as newer configurations list it."""
    if listed := config.get("layer_types"):
        return list(listed)
    every = config.get("global_attn_every_n_layers", 3)
    count = config["num_hidden_layers"]
    return ["sliding_attention" if n % every else "full_attention" for n in range(count)]


def _base(config: Mapping[str, Any], kind: str) -> float:
    """The base of rotary positions."""
    own = (config.get("rope_parameters") or {}).get(kind) or {}
    if own.get("rope_type", "default") != "default":
        raise ValueError(f"rotary positions of the type {own['rope_type']} are not known")
    return float(own.get("rope_theta") or config.get(OLD_BASES[kind]) or BASES[kind])
