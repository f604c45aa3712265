"""Warnings: what of a request has no effect on a model."""

from __future__ import annotations

from dataclasses import dataclass

from budmlx.engine.reply.parsers import Parsers, active_tools
from budmlx.engine.request.core_requests import without_unknown_ids
from budmlx.engine.request.grammars import can_be_strict
from budmlx.types import Request


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
