"""Embeddings: how a model makes vectors of texts, the texts, and the vectors."""

from __future__ import annotations

from typing import Literal

import msgspec

PoolingMode = Literal["last", "mean", "cls", "max", "mean_sqrt", "weighted"]
"""How the hidden states of a text become one: that of its last or its first token (cls), their
mean, their sum by the root of their number, the largest value of each place, or a mean in which
the n-th token counts n times."""


class EmbeddingSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of the hidden states of a text.

    pooling: modes, whose results are joined in this order. dense: directories of layers that
    follow, in order. normalize: the vector gets length 1 at last.
    scores: instead of all that, the vector has the scores of the model's own classifier.
    """

    pooling: list[PoolingMode]
    dense: list[str] = []
    normalize: bool = True
    scores: bool = False


class EmbedRequest(msgspec.Struct, frozen=True, kw_only=True, tag="embed"):
    """Texts to compute the vectors of. Ids are already checked against the vocabulary.

    skips: for each text, how many tokens at its beginning are not pooled; empty for none.
    seconds: where the second text of each pair begins; empty if the texts are no pairs.
    owner, background: as of a row.
    """

    id: int
    texts: list[list[int]]
    skips: list[int] = []
    seconds: list[int] = []
    owner: str = ""
    background: bool = False


class Vector(msgspec.Struct, frozen=True, array_like=True):
    """The vector of one text of a request. values: float32, little-endian.

    last: the request has its vectors now. Those of texts may come in any order, and again after
    the core was restarted.
    """

    id: int
    text: int
    values: bytes
    last: bool = False
