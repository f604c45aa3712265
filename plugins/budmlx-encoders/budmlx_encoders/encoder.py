"""What encoders have in common. Only the core imports this."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn

ACTIVATIONS: Mapping[str, Callable[[mx.array], mx.array]] = {
    "gelu": nn.gelu,
    "gelu_new": nn.gelu_approx,
    "gelu_pytorch_tanh": nn.gelu_approx,
    "relu": nn.relu,
    "silu": nn.silu,
    "swiglu": nn.silu,
    "tanh": mx.tanh,
}


class Encoder(nn.Module):
    """A model that gives the hidden states of texts, and the scores of its classifier, if any.

    context_length: most tokens of a text.
    """

    context_length: int
    # Parts of names that checkpoints have and the module's parameters do not, or otherwise.
    renamed: ClassVar[Mapping[str, str]] = {}
    # Weights of pretraining and of other heads.
    unused = re.compile(r"position_ids$|^cls\.|^lm_head\.|^decoder\.|^qa_outputs\.")

    def encode(self, tokens: mx.array, mask: mx.array, second: mx.array | None = None) -> mx.array:
        """Hidden states [texts, tokens, hidden] of tokens [texts, tokens].

        mask: bool [texts, tokens], False for padding, which stands on the right. second: bool, the
        same shape: the tokens of the second text of a pair.
        """
        raise NotImplementedError

    def classify(
        self, tokens: mx.array, mask: mx.array, second: mx.array | None = None
    ) -> mx.array:
        """Scores [texts, labels] before any function that brings them into a range."""
        raise NotImplementedError

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """The weights under the names of this module's parameters."""
        found: dict[str, mx.array] = {}
        for name, weight in weights.items():
            for old, new in self.renamed.items():
                name = re.sub(old, new, name)
            if not self.unused.search(name):
                found[name] = weight
        return self.kept(found)

    def kept(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """The weights that this module has a place for, such as none of a head that is not used."""
        return weights


def is_classifier(config: Mapping[str, Any]) -> bool:
    """Whether the model has a head that classifies texts or pairs."""
    classes = config.get("architectures") or []
    return any(str(each).endswith("ForSequenceClassification") for each in classes)


def labels(config: Mapping[str, Any]) -> int:
    """How many scores the classifier gives."""
    named = config.get("id2label")
    return len(named) if named else int(config.get("num_labels", 2))


def attend(
    queries: mx.array, keys: mx.array, values: mx.array, heads: int, mask: mx.array
) -> mx.array:
    """Attention of [texts, heads, tokens, width] as [texts, tokens, heads * width].

    mask: bool, broadcast to [texts, heads, tokens, tokens].
    """
    scale = queries.shape[-1] ** -0.5
    out = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)
    texts, _, tokens, width = out.shape
    return out.transpose(0, 2, 1, 3).reshape(texts, tokens, heads * width)


def split(x: mx.array, heads: int) -> mx.array:
    """[texts, tokens, heads * width] as [texts, heads, tokens, width]."""
    texts, tokens, width = x.shape
    return x.reshape(texts, tokens, heads, width // heads).transpose(0, 2, 1, 3)
