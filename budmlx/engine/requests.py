"""From what callers pass to what the core takes."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from budmlx.engine.prompt import parse_messages, render
from budmlx.engine.tokenizer import Tokenizer

from budmlx.errors import ContextLengthError, InvalidRequestError
from budmlx.protocol import GenerateRequest
from budmlx.types import Message, ModelInfo, Request, SamplingParams

Messages = str | Sequence[Message | Mapping[str, Any]]

SAMPLING_FIELDS = frozenset(field.name for field in fields(SamplingParams))


def chat_request(messages: Messages, options: Mapping[str, Any]) -> Request:
    """A `Request` from the arguments of the Python API.

    Raises:
        InvalidRequestError: a message or an option is wrong; `param` names it.
    """
    options = dict(options)
    template_kwargs = options.pop("chat_template_kwargs", {})
    return Request(
        messages=parse_messages(messages),
        sampling=sampling_params(options),
        chat_template_kwargs=template_kwargs,
    )


def sampling_params(options: Mapping[str, Any]) -> SamplingParams:
    """`SamplingParams` from keyword arguments; `stop` may be one string.

    Raises:
        InvalidRequestError: an option is unknown or out of range.
    """
    for name in options:
        if name not in SAMPLING_FIELDS:
            known = ", ".join(sorted(SAMPLING_FIELDS))
            raise InvalidRequestError(
                f"Unknown parameter {name}. Known parameters: {known}.", param=name
            )
    values = dict(options)
    stop = values.get("stop")
    if stop is not None:
        values["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    if values.get("stop_token_ids") is not None:
        values["stop_token_ids"] = tuple(values["stop_token_ids"])
    return SamplingParams(**{name: value for name, value in values.items() if value is not None})


def prompt_ids(request: Request, tokenizer: Tokenizer, info: ModelInfo) -> list[int]:
    """Token ids of the request's prompt, checked against the vocabulary and the context.

    Raises:
        InvalidRequestError: an id is outside the vocabulary, or the prompt is empty.
        ContextLengthError: there is no room for a single token of completion.
    """
    if request.messages is not None:
        param = "messages"
        ids = render(tokenizer, request.messages, request.chat_template_kwargs)
    else:
        param = "prompt"
        raw = request.prompt or ()
        ids = tokenizer.encode(raw, add_special=True) if isinstance(raw, str) else list(raw)
    if not ids:
        raise InvalidRequestError("The prompt has no tokens.", param=param)
    if len(ids) >= info.context_length:
        raise ContextLengthError(
            f"The prompt has {len(ids)} tokens; {info.name} takes at most "
            f"{info.context_length} together with the completion. Shorten the {param}.",
            param=param,
        )
    # The largest and smallest id decide, so that the common case is fast.
    if min(ids) < 0 or max(ids) >= info.vocab_size:
        raise InvalidRequestError(
            f"A token id is outside the vocabulary of {info.vocab_size} tokens.", param=param
        )
    return ids


def core_request(
    row_id: int, ids: list[int], sampling: SamplingParams, stop_ids: Sequence[int]
) -> GenerateRequest:
    """The core's view of a row. A seed is drawn where none is given.

    stop_ids: ids that end the row whatever the request says.
    """
    return GenerateRequest(
        id=row_id,
        prompt_ids=ids,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        seed=secrets.randbits(63) if sampling.seed is None else sampling.seed,
        max_tokens=sampling.max_tokens or 2**62,
        stop_ids=sorted({*stop_ids, *sampling.stop_token_ids}),
    )
