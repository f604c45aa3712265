"""Samplers that keep some of the tokens and draw one of them by its probability.

They see logits after the request's temperature and filters: -inf stands for a token that
is excluded already. Masks are True where a token is kept, [rows, vocab].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from budmlx.plugins.specs import RowContext

Options = Mapping[str, Any]
State = dict[str, mx.array]

_categorical = mx.vmap(lambda logits, key: mx.random.categorical(logits, key=key))
_split = mx.vmap(mx.random.split)
_uniform = mx.vmap(lambda key: mx.random.uniform(key=key))


def draw(logits: mx.array, kept: mx.array, keys: mx.array) -> mx.array:
    """Token ids [rows], each drawn among the kept ones."""
    return _categorical(mx.where(kept, logits, -mx.inf), keys)


def _is(ids: mx.array, vocab: int) -> mx.array:
    """True at these ids [rows], False elsewhere."""
    return mx.arange(vocab)[None] == ids[:, None]


def _column(value: float) -> mx.array:
    return mx.array([value], dtype=mx.float32)


def surprises(logits: mx.array) -> mx.array:
    """Bits of surprise, -log2 of the probability, [rows, vocab]."""
    return (mx.logsumexp(logits, axis=-1, keepdims=True) - logits) / math.log(2)


def keep_unsurprising(surprise: mx.array, limit: mx.array) -> mx.array:
    """Tokens of at most `limit` bits [rows], and in any case the most likely one."""
    best = _is(mx.argmin(surprise, axis=-1), surprise.shape[-1])
    return (surprise <= limit[:, None]) | best


class Mirostat:
    """Keeps the surprise of the text near `tau` bits per token.

    Mirostat 2.0 of Basu et al., "Mirostat: A Neural Text Decoding Algorithm that Directly
    Controls Perplexity", ICLR 2021 (arXiv:2007.14966): only tokens of at most mu bits are
    drawn; mu begins at 2 tau and changes by -eta (surprise - tau). The surprise is that of
    the whole distribution, as in the authors' program; llama.cpp measures it among the
    kept tokens, so its texts come out more surprising for the same tau.
    """

    def init(self, options: Options) -> State:
        """See `Sampler`."""
        tau, eta = _column(options["tau"]), _column(options["eta"])
        return {"mu": 2 * tau, "tau": tau, "eta": eta}

    def sample(
        self, logits: mx.array, state: State, context: RowContext, keys: mx.array
    ) -> tuple[mx.array, State]:
        """See `Sampler`."""
        surprise = surprises(logits)
        ids = draw(logits, keep_unsurprising(surprise, state["mu"]), keys)
        observed = mx.take_along_axis(surprise, ids[:, None], axis=-1)[:, 0]
        return ids, {**state, "mu": state["mu"] - state["eta"] * (observed - state["tau"])}


def exclude_top_choices(logits: mx.array, threshold: mx.array) -> mx.array:
    """All tokens but those of at least this probability [rows]; of those the least likely."""
    probabilities = mx.softmax(logits, axis=-1)
    top = probabilities >= threshold[:, None]
    least = mx.argmin(mx.where(top, probabilities, mx.inf), axis=-1)
    return ~top | _is(least, logits.shape[-1])


class Xtc:
    """Excludes the top choices, now and then, so that the text takes less trodden paths.

    p-e-w, "Exclude Top Choices (XTC)", text-generation-webui pull request 6335, 2024: with
    the given probability, all tokens that reach the threshold are excluded except the least
    likely of them.
    """

    def init(self, options: Options) -> State:
        """See `Sampler`."""
        return {name: _column(options[name]) for name in ("threshold", "probability")}

    def sample(
        self, logits: mx.array, state: State, context: RowContext, keys: mx.array
    ) -> tuple[mx.array, State]:
        """See `Sampler`."""
        pairs = _split(keys)
        spared = _uniform(pairs[:, 0]) >= state["probability"]
        kept = exclude_top_choices(logits, state["threshold"]) | spared[:, None]
        return draw(logits, kept, pairs[:, 1]), state


def keep_near_top(logits: mx.array, n: mx.array) -> mx.array:
    """Tokens at most n [rows] standard deviations below the largest logit.

    Tokens that are excluded already do not count in the deviation.
    """
    present = logits > -mx.inf
    count = mx.maximum(present.sum(axis=-1, keepdims=True), 1)
    mean = mx.where(present, logits, 0).sum(axis=-1, keepdims=True) / count
    squares = mx.where(present, mx.square(logits - mean), 0)
    sigma = mx.sqrt(squares.sum(axis=-1, keepdims=True) / count)
    return logits >= mx.max(logits, axis=-1, keepdims=True) - n[:, None] * sigma


class TopNSigma:
    """Draws from the tokens whose logit stands out from the noise, whatever the temperature.

    Tang et al., "Top-nsigma: Not All Logits Are You Need", 2024 (arXiv:2411.07641).
    """

    def init(self, options: Options) -> State:
        """See `Sampler`."""
        return {"n": _column(options["n"])}

    def sample(
        self, logits: mx.array, state: State, context: RowContext, keys: mx.array
    ) -> tuple[mx.array, State]:
        """See `Sampler`."""
        return draw(logits, keep_near_top(logits, state["n"]), keys), state
