"""Which tokens may be drawn: top_k, top_p, min_p and typical_p, each row with its own.

The filters look at the distribution before temperature, as mlx-lm's do. typical_p comes first;
each of the others keeps the tokens down to some logit, so that together they have one boundary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from budmlx.core.sample.candidates import candidates, worthwhile
from budmlx.core.sample.numeric import exp, float_bits
from budmlx.core.sample.search import UNLIMITED, boundary, first, limit, weights
from budmlx.protocol import GenerateRequest

# The most likely tokens come from as many blocks as the first of these that top_k fits in.
BLOCKS = (64, 512)


@dataclass(frozen=True, slots=True)
class Kind:
    """How the tokens of some rows are filtered.

    ranked, nucleus: whether a row is limited by number (top_k), or by probability alone (top_p).
    Rows of one kind agree in both, and in `blocks`, so that each is treated as if it were alone.
    top_p, min_p, typical: whether any row uses it; a filter nobody uses costs nothing.
    blocks: the number of blocks that the candidates come from; 0 for the whole vocabulary.
    """

    ranked: bool
    nucleus: bool
    blocks: int
    top_p: bool = False
    min_p: bool = False
    typical: bool = False


def kind_of(request: GenerateRequest) -> Kind:
    """What decides with which rows a row may be filtered."""
    ranked = request.top_k > 0
    blocks = next((n for n in BLOCKS if ranked and request.top_k <= n), 0)
    return Kind(ranked, not ranked and np.float32(request.top_p) < 1, blocks)


@dataclass(frozen=True, slots=True)
class Limits:
    """The parameters of some rows of one kind, each [rows, 1].

    top_p, typical_p: float32, the share of the probability. top_k: int32. farthest: int32, by
    min_p the largest key that a token may have.
    """

    top_p: mx.array
    top_k: mx.array
    farthest: mx.array
    typical_p: mx.array

    @property
    def arrays(self) -> tuple[mx.array, ...]:
        """All of them, in the order of the constructor."""
        return self.top_p, self.top_k, self.farthest, self.typical_p


def limits_of(requests: Sequence[GenerateRequest]) -> tuple[Kind, Limits]:
    """The kind and the parameters of rows that `kind_of` says may be filtered together."""
    top_p = np.array([r.top_p for r in requests], dtype=np.float32)
    top_k = np.array([r.top_k for r in requests])
    min_p = np.array([r.min_p for r in requests], dtype=np.float32)
    typical = np.array([r.typical_p for r in requests], dtype=np.float32)
    with np.errstate(divide="ignore"):
        farthest = np.maximum(-np.log(min_p), 0)
    base = kind_of(requests[0])
    kind = Kind(
        base.ranked,
        base.nucleus,
        base.blocks,
        top_p=bool((top_p < 1).any()),
        min_p=bool((min_p > 0).any()),
        typical=bool((typical < 1).any()),
    )
    limits = Limits(
        _column(top_p),
        _column(np.where(top_k > 0, np.minimum(top_k, UNLIMITED), UNLIMITED).astype(np.int32)),
        _column(farthest.astype(np.float32).view(np.int32)),
        _column(typical),
    )
    return kind, limits


@dataclass(frozen=True, slots=True)
class Kept:
    """Tokens of rows, and which of them may be drawn.

    ids: uint32 [rows or 1, count]. logits, distances: float32 [rows, count], and how far they
    are from the row's largest one. likelihoods: float32 like them, in proportion to the
    probabilities, where they were needed. allowed: bool [rows, count]; None for all whose
    logits are finite.
    """

    ids: mx.array
    logits: mx.array
    distances: mx.array
    likelihoods: mx.array | None
    allowed: mx.array | None


def keep(kind: Kind, logits: mx.array, limits: Limits, *, everywhere: bool = False) -> Kept:
    """Filter the tokens of rows of one kind, given their float32 logits [rows, vocab].

    As in mlx-lm, all tokens as likely as the last one of a nucleus belong to it, and top_k keeps
    no more than its number: of equally likely tokens those with the lowest ids.
    everywhere: tell it of the whole vocabulary, also where candidates would do.
    """
    vocab = logits.shape[-1]
    if kind.typical:
        logits = _keep_typical(logits, limits.typical_p)
    largest = logits.max(axis=-1, keepdims=True)
    ids = mx.arange(vocab, dtype=mx.uint32)[None]
    likelihoods = total = None
    if kind.top_p:
        likelihoods = exp(logits - largest)
        amounts = weights(likelihoods)
        total = amounts.sum(axis=-1, keepdims=True)
    if kind.blocks and worthwhile(kind.blocks, vocab) and not everywhere:
        ids, logits = candidates(logits, kind.blocks)
        if kind.top_p:
            inside = mx.minimum(ids, vocab - 1)
            likelihoods = mx.take_along_axis(likelihoods, inside, axis=-1)
            amounts = mx.take_along_axis(amounts, inside, axis=-1)
    distances = largest - logits
    keys = float_bits(distances)
    bounds = []
    if kind.top_p:
        bounds.append((amounts, limit(total, limits.top_p)))
    if kind.ranked:
        bounds.append((None, limits.top_k))
    last = None
    if kind.ranked or kind.nucleus:
        last = boundary(keys, bounds, coarse=kind.nucleus)
    if kind.min_p:
        last = limits.farthest if last is None else mx.minimum(last, limits.farthest)
    if last is None:
        return Kept(ids, logits, distances, likelihoods, None)
    allowed = first(keys, last, limits.top_k) if kind.ranked else keys <= last
    return Kept(ids, logits, distances, likelihoods, allowed)


def _keep_typical(logits: mx.array, shares: mx.array) -> mx.array:
    """Keep the tokens whose information is nearest to the distribution's entropy.

    Meister et al., "Locally Typical Sampling", 2022. Tokens as near as the last one are kept.
    shares: float32 [rows, 1].
    """
    distances = logits.max(axis=-1, keepdims=True) - logits
    likelihoods = exp(-distances)
    amounts = weights(likelihoods)
    total = amounts.sum(axis=-1, keepdims=True)
    # Information and entropy both contain the same normalizer.
    information = mx.minimum(distances, 1e4)
    mean = (likelihoods * information).sum(axis=-1, keepdims=True)
    away = mx.abs(information - mean / likelihoods.sum(axis=-1, keepdims=True))
    keys = float_bits(away)
    last = boundary(keys, [(amounts, limit(total, shares))], coarse=True)
    return mx.where((keys > last) & (shares < 1), -mx.inf, logits)


def _column(values: np.ndarray) -> mx.array:
    return mx.array(values)[:, None]
