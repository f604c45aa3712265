"""Warnings: what of a request has no effect on a model."""

from __future__ import annotations

from dataclasses import dataclass, replace

from budmlx.engine.reply.parsers import Parsers, active_tools
from budmlx.engine.request.grammars import can_be_strict
from budmlx.types import Request, SamplingParams


@dataclass(frozen=True, slots=True)
class RequestWarnings:
    """What makes the warnings of a model. filtered: output filters may change the text.

    cached: there is a response cache.
    """

    parsers: Parsers
    vocab_size: int
    filtered: bool
    cached: bool

    def of(self, request: Request) -> list[str]:
        """A sentence for each part of a request that has no effect."""
        _, warnings = without_unknown_ids(request.sampling, self.vocab_size)
        template = self.parsers.tokenizer.template()
        unused = template.unused_kwargs(request.chat_template_kwargs)
        warnings += [f"{name} has no effect: the chat template does not use it." for name in unused]
        if any(tool.strict for tool in active_tools(request)) and not can_be_strict(self.parsers):
            warnings.append("strict has no effect: this model's calls are constrained when forced.")
        if self.filtered and request.sampling.logprobs is not None:
            warnings.append("logprobs are left out, since an output filter may change the text.")
        if request.cache is not None and request.cache.write and not self.cached:
            warnings.append("cache has no effect: there is no response cache.")
        return warnings


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
