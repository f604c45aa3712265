"""BERT, RoBERTa and XLM-RoBERTa. Only the core imports this."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn

from budmlx_encoders.encoder import ACTIVATIONS, Encoder, attend, is_classifier, labels, split


class Embeddings(nn.Module):
    """Sum of the embeddings of tokens, places and kinds of text, normalized.

    first: the number of the first place.
    """

    def __init__(self, config: Mapping[str, Any], first: int):
        super().__init__()
        hidden = config["hidden_size"]
        self._first = first
        self.word_embeddings = nn.Embedding(config["vocab_size"], hidden)
        self.position_embeddings = nn.Embedding(config["max_position_embeddings"], hidden)
        self.token_type_embeddings = nn.Embedding(config.get("type_vocab_size", 2), hidden)
        self.LayerNorm = nn.LayerNorm(hidden, eps=config.get("layer_norm_eps", 1e-12))

    def __call__(self, tokens: mx.array, second: mx.array | None) -> mx.array:
        """The output, in the shape of the input but for its width."""
        kinds = mx.zeros_like(tokens)
        if second is not None and self.token_type_embeddings.weight.shape[0] > 1:
            kinds = second.astype(tokens.dtype)
        places = self._first + mx.arange(tokens.shape[1])
        x = self.word_embeddings(tokens) + self.position_embeddings(places)
        return self.LayerNorm(x + self.token_type_embeddings(kinds))


class Projected(nn.Module):
    """A linear layer, added to what came in and normalized."""

    def __init__(self, inputs: int, hidden: int, eps: float):
        super().__init__()
        self.dense = nn.Linear(inputs, hidden)
        self.LayerNorm = nn.LayerNorm(hidden, eps=eps)

    def __call__(self, x: mx.array, before: mx.array) -> mx.array:
        """The output, in the shape of the input but for its width."""
        return self.LayerNorm(self.dense(x) + before)


class Layer(nn.Module):
    """Attention and a feed-forward layer, each followed by its normalization."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        hidden, inner = config["hidden_size"], config["intermediate_size"]
        eps = config.get("layer_norm_eps", 1e-12)
        self._heads = config["num_attention_heads"]
        self._activation = ACTIVATIONS[config.get("hidden_act", "gelu")]
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(hidden, hidden)
        self.value = nn.Linear(hidden, hidden)
        self.attended = Projected(hidden, hidden, eps)
        self.intermediate = nn.Linear(hidden, inner)
        self.output = Projected(inner, hidden, eps)

    def __call__(self, x: mx.array, mask: mx.array) -> mx.array:
        """The output, in the shape of the input but for its width."""
        parts = (split(layer(x), self._heads) for layer in (self.query, self.key, self.value))
        x = self.attended(attend(*parts, self._heads, mask), x)
        return self.output(self._activation(self.intermediate(x)), x)


class Head(nn.Module):
    """The classifier of RoBERTa, over the state of the first token."""

    def __init__(self, hidden: int, count: int):
        super().__init__()
        self.dense = nn.Linear(hidden, hidden)
        self.out_proj = nn.Linear(hidden, count)

    def __call__(self, x: mx.array) -> mx.array:
        """The output, in the shape of the input but for its width."""
        return self.out_proj(mx.tanh(self.dense(x)))


class Bert(Encoder):
    """BERT, or RoBERTa, whose places begin behind the number of its padding token."""

    renamed: ClassVar = {
        r"^(bert|roberta|xlm_roberta)\.": "",
        r"^encoder\.layer\.": "layers.",
        r"attention\.self\.": "",
        r"attention\.output\.": "attended.",
        r"intermediate\.dense\.": "intermediate.",
        r"LayerNorm\.gamma$": "LayerNorm.weight",
        r"LayerNorm\.beta$": "LayerNorm.bias",
        r"^pooler\.dense\.": "pooler.",
    }

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        if config.get("position_embedding_type", "absolute") != "absolute":
            raise ValueError("only absolute positions are known")
        roberta = config["model_type"] != "bert"
        first = int(config.get("pad_token_id", 1)) + 1 if roberta else 0
        hidden = config["hidden_size"]
        self.context_length = config["max_position_embeddings"] - first
        self.embeddings = Embeddings(config, first)
        self.layers = [Layer(config) for _ in range(config["num_hidden_layers"])]
        if is_classifier(config):
            if not roberta:
                self.pooler = nn.Linear(hidden, hidden)
            count = labels(config)
            self.classifier = Head(hidden, count) if roberta else nn.Linear(hidden, count)

    def encode(self, tokens: mx.array, mask: mx.array, second: mx.array | None = None) -> mx.array:
        """See `Encoder`."""
        x, seen = self.embeddings(tokens, second), mask[:, None, None, :]
        for layer in self.layers:
            x = layer(x, seen)
        return x

    def classify(
        self, tokens: mx.array, mask: mx.array, second: mx.array | None = None
    ) -> mx.array:
        """See `Encoder`."""
        first = self.encode(tokens, mask, second)[:, 0]
        if "pooler" in self:
            first = mx.tanh(self.pooler(first))
        return self.classifier(first)

    def kept(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """See `Encoder`."""
        heads = [name for name in ("pooler", "classifier") if name not in self]
        unused = re.compile(rf"^({'|'.join(heads) or 'none'})\.")
        return {name: weight for name, weight in weights.items() if not unused.match(name)}
