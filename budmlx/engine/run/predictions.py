"""Predictions: what callers expect of replies, as tokens to be drafted."""

from __future__ import annotations

from budmlx.engine.text.tokenizer import Tokenizer, check_text
from budmlx.types import ModelInfo, Request


def speculates(info: ModelInfo) -> bool:
    """Whether rows of a model may draft tokens."""
    return info.speculation not in ("off", "unsupported")


def predicted_ids(request: Request, info: ModelInfo, tokenizer: Tokenizer) -> list[int]:
    """The tokens of a request's prediction; none where they would not be drafted.

    Raises:
        InvalidRequestError: the prediction holds a lone surrogate.
    """
    check_text(request.prediction, "prediction")
    if not (request.speculation and speculates(info)):
        return []
    return tokenizer.encode(request.prediction, add_special=False)


def without_effect(request: Request, *, drafting: bool) -> str:
    """The warning about a prediction that is not used; empty for others.

    drafting: rows of the model may draft tokens.
    """
    if not drafting:
        why = "speculation is off, or this model's caches cannot take tokens back"
        return f"prediction has no effect: {why}."
    sampling = request.sampling
    plugged = sampling.sampler is not None or sampling.logits_processors
    if request.speculation and not plugged and sampling.max_reasoning_tokens is None:
        return ""
    return "prediction has no effect: something else that was asked for keeps it from drafting."
