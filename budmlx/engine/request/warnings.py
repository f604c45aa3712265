"""What of a request has no effect on a model."""

from __future__ import annotations

from budmlx.engine.request.core_requests import without_unknown_ids
from budmlx.engine.text.tokenizer import Tokenizer
from budmlx.types import Request


def unused(request: Request, tokenizer: Tokenizer, vocab_size: int) -> list[str]:
    """Warnings about token ids and template variables that the model does not know."""
    warnings = without_unknown_ids(request.sampling, vocab_size)[1]
    names = tokenizer.template().unused_kwargs(request.chat_template_kwargs)
    warnings += [f"{name} has no effect: the chat template does not use it." for name in names]
    return warnings
