"""Filters: which tokens may be drawn by top_k, top_p, min_p and typical_p, each row with its own.

The filters look at the distribution before temperature, as mlx-lm's do. typical_p comes first;
each of the others keeps the tokens down to some logit, so that together they have one boundary.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from budmlx.core.row import Row
from budmlx.core.sample.candidates import candidates, worthwhile
from budmlx.core.sample.numeric import (
    LOG2_E,
    UNLIMITED,
    boundary,
    exp2,
    first,
    float_bits,
    limit,
    row_max,
    weights,
)
from budmlx.types import SamplingParams

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


def kind_of(params: SamplingParams) -> Kind:
    """What decides with which rows a row may be filtered."""
    ranked = params.top_k > 0
    blocks = next((n for n in BLOCKS if ranked and params.top_k <= n), 0)
    return Kind(ranked, not ranked and bool(np.float32(params.top_p) < 1), blocks)


def features(rows: Sequence[Row]) -> frozenset[Hashable]:
    """What of sampling these rows use; groups that agree in it run the same kernels."""
    return frozenset(map(_features, rows))


def _features(row: Row) -> Hashable:
    request, params = row.request, row.request.sampling
    filters = kind_of(params), params.top_p < 1, params.min_p > 0, params.typical_p < 1
    return (
        filters if params.temperature > 0 else None,
        bool(params.frequency_penalty or params.presence_penalty),
        params.repetition_penalty != 1,
        bool(params.logit_bias),
        params.logprobs,
        request.min_tokens > 0,
        row.grammar is not None,
        request.reasoning is not None,
        tuple(call.core for call in request.processors),
        request.sampler and request.sampler.core,
    )


def takes_candidates(kind: Kind, vocab: int) -> bool:
    """Whether a part of the vocabulary is enough for these rows."""
    return kind.blocks > 0 and worthwhile(kind.blocks, vocab)


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


def limits_of(params: Sequence[SamplingParams]) -> tuple[Kind, Limits]:
    """The kind and the parameters of rows that `kind_of` says may be filtered together."""
    top_p = np.array([p.top_p for p in params], dtype=np.float32)
    top_k = np.array([p.top_k for p in params])
    min_p = np.array([p.min_p for p in params], dtype=np.float32)
    typical = np.array([p.typical_p for p in params], dtype=np.float32)
    with np.errstate(divide="ignore"):
        farthest = np.maximum(-np.log(min_p), 0)
    base = kind_of(params[0])
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
    if kind.typical:
        logits = _keep_typical(logits, limits.typical_p)
    largest = row_max(logits)
    nucleus = _Nucleus.of(logits, largest, limits.top_p) if kind.top_p else None
    ids = mx.arange(logits.shape[-1], dtype=mx.uint32)[None]
    if takes_candidates(kind, logits.shape[-1]) and not everywhere:
        ids, logits = candidates(logits, kind.blocks)
        nucleus = nucleus.of_ids(ids) if nucleus is not None else None
    distances = largest - logits
    allowed = _allowed(kind, float_bits(distances), nucleus, limits)
    likelihoods = nucleus.likelihoods if nucleus is not None else None
    return Kept(ids, logits, distances, likelihoods, allowed)


@dataclass(frozen=True, slots=True)
class _Nucleus:
    """What top_p needs: likelihoods and their `weights`, [rows, count], and a `limit` of these."""

    likelihoods: mx.array
    weights: mx.array
    limit: mx.array

    @classmethod
    def of(cls, logits: mx.array, largest: mx.array, shares: mx.array) -> _Nucleus:
        """That of whole rows of logits."""
        likelihoods = exp2((logits - largest) * LOG2_E)
        amounts = weights(likelihoods)
        total = amounts.sum(axis=-1, keepdims=True)
        return cls(likelihoods, amounts, limit(total, shares))

    def of_ids(self, ids: mx.array) -> _Nucleus:
        """The same of some tokens, [rows, count]; an id too large is the last one's."""
        ids = mx.minimum(ids, self.weights.shape[-1] - 1)
        likelihoods = mx.take_along_axis(self.likelihoods, ids, axis=-1)
        return _Nucleus(likelihoods, mx.take_along_axis(self.weights, ids, axis=-1), self.limit)


def _allowed(
    kind: Kind, keys: mx.array, nucleus: _Nucleus | None, limits: Limits
) -> mx.array | None:
    """Which tokens may be drawn, bool [rows, count], by the keys of their distances."""
    bounds: list[tuple[mx.array | None, mx.array]] = []
    if nucleus is not None:
        bounds.append((nucleus.weights, nucleus.limit))
    if kind.ranked:
        bounds.append((None, limits.top_k))
    last = boundary(keys, bounds, coarse=kind.nucleus) if bounds else None
    if kind.min_p:
        last = limits.farthest if last is None else mx.minimum(last, limits.farthest)
    if last is None:
        return None
    return first(keys, last, limits.top_k) if kind.ranked else keys <= last


def _keep_typical(logits: mx.array, shares: mx.array) -> mx.array:
    """Keep the tokens whose information is nearest to the distribution's entropy.

    Meister et al., "Locally Typical Sampling", 2022. Tokens as near as the last one are kept.
    shares: float32 [rows, 1].
    """
    distances = row_max(logits) - logits
    likelihoods = exp2(distances * -LOG2_E)
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
