"""Rows for the core from a request: the sampling parameters are resolved for one model."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace

import msgspec

from budmlx.engine.prompt import TokenizedPrompt
from budmlx.errors import InvalidRequestError
from budmlx.protocol import GenerateRequest, Grammar
from budmlx.types import Request, SamplingParams

# Larger than any context; the core clamps it.
UNLIMITED = 2**62


def core_requests(
    row_ids: Sequence[int],
    prompt: TokenizedPrompt,
    request: Request,
    eos_ids: Sequence[int],
    grammar: Grammar | None = None,
) -> list[GenerateRequest]:
    """One row for each choice of a request. A seed is drawn if none is given.

    eos_ids: the model's end-of-sequence ids.
    """
    sampling = request.sampling
    if grammar is not None and sampling.ignore_eos:
        raise InvalidRequestError(
            "ignore_eos cannot be combined with a form that the reply must have: it says where "
            "the reply ends.",
            param="ignore_eos",
        )
    stops = {*sampling.stop_token_ids, *(() if sampling.ignore_eos else eos_ids)}
    first = GenerateRequest(
        id=row_ids[0],
        prompt_ids=prompt.ids,
        images=list(prompt.images),
        checkpoints=list(prompt.checkpoints),
        sampling=_without_resolved(sampling),
        seed=secrets.randbits(63) if sampling.seed is None else sampling.seed,
        max_tokens=sampling.max_tokens or UNLIMITED,
        min_tokens=UNLIMITED if sampling.min_tokens < 0 else sampling.min_tokens,
        stop_ids=sorted(stops),
        grammar=grammar,
        fork=row_ids[0] if len(row_ids) > 1 else 0,
        namespace=request.namespace,
    )
    return [
        msgspec.structs.replace(first, id=row_id, choice=choice)
        for choice, row_id in enumerate(row_ids)
    ]


def _without_resolved(sampling: SamplingParams) -> SamplingParams:
    """The parameters without those that `GenerateRequest` has in its own fields.

    Texts that stop are found in the decoded text, which the core never sees.
    """
    return replace(
        sampling,
        seed=None,
        max_tokens=None,
        min_tokens=0,
        stop=(),
        stop_token_ids=(),
        ignore_eos=False,
        sampler=None,
        logits_processors=(),
    )


def without_unknown_ids(sampling: SamplingParams, vocab: int) -> tuple[SamplingParams, list[str]]:
    """Drop what names token ids outside the vocabulary; they must never reach the core.

    Returns the parameters and a warning for each that lost something: documented client
    code sends such ids, so they are not an error.
    """
    warnings = []
    bias = tuple((token, value) for token, value in sampling.logit_bias if 0 <= token < vocab)
    if lost := len(sampling.logit_bias) - len(bias):
        warnings.append(f"logit_bias: {lost} token ids outside the vocabulary were ignored.")
    stops = tuple(token for token in sampling.stop_token_ids if 0 <= token < vocab)
    if lost := len(sampling.stop_token_ids) - len(stops):
        warnings.append(f"stop_token_ids: {lost} ids outside the vocabulary were ignored.")
    if not warnings:
        return sampling, []
    return replace(sampling, logit_bias=bias, stop_token_ids=stops), warnings
