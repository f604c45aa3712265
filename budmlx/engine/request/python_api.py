"""From what callers pass to what the core takes."""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import msgspec

from budmlx.engine.prompt import TokenizedPrompt
from budmlx.engine.request.messages import parse_messages
from budmlx.engine.request.plugin_choices import choice_of
from budmlx.engine.request.tools import parse_response_format, parse_tool_choice, parse_tools
from budmlx.errors import InvalidRequestError
from budmlx.protocol import GenerateRequest, Grammar
from budmlx.types import MAX_BIAS, CachePolicy, Message, Request, SamplingParams

Messages = str | Sequence[Message | Mapping[str, Any]]

# Larger than any context; the core clamps it.
UNLIMITED = 2**62
REQUEST_OPTIONS = frozenset(
    {"n", "chat_template_kwargs", "cache", "tools", "tool_choice", "parallel_tool_calls"}
    | {"incremental_calls", "response_format", "reasoning", "cache_salt", "explain_cache"}
)
SAMPLING_FIELDS = frozenset(field.name for field in fields(SamplingParams))


def chat_request(messages: Messages, options: Mapping[str, Any]) -> Request:
    """A `Request` from the arguments of the Python API.

    Raises:
        InvalidRequestError: a message or an option is wrong; `param` names it.
    """
    return _request(options, messages=parse_messages(messages))


def prompt_request(prompt: str | Sequence[int], options: Mapping[str, Any]) -> Request:
    """A `Request` for raw text or token ids; see `chat_request`."""
    return _request(options, prompt=prompt if isinstance(prompt, str) else tuple(prompt))


def _request(options: Mapping[str, Any], **source: Any) -> Request:
    given = {name: value for name, value in options.items() if value is not None}
    extras = {name: given.pop(name) for name in REQUEST_OPTIONS & given.keys()}
    if "cache" in extras:
        extras["cache"] = CachePolicy.of(extras["cache"])
    if "tools" in extras:
        extras["tools"] = parse_tools(extras["tools"])
    if "tool_choice" in extras:
        extras["tool_choice"] = parse_tool_choice(extras["tool_choice"], extras.get("tools", ()))
    if "response_format" in extras:
        extras["response_format"] = parse_response_format(extras["response_format"])
    for name in given:
        if name not in SAMPLING_FIELDS:
            known = ", ".join(sorted(SAMPLING_FIELDS | REQUEST_OPTIONS))
            raise InvalidRequestError(
                f"Unknown parameter {name}. Known parameters: {known}.", param=name
            )
    if isinstance(given.get("stop"), str):
        given["stop"] = (given["stop"],)
    if isinstance(given.get("logit_bias"), Mapping):
        given["logit_bias"] = tuple(given["logit_bias"].items())
    for name in ("stop", "stop_token_ids", "logit_bias"):
        if name in given:
            given[name] = tuple(given[name])
    if "sampler" in given:
        given["sampler"] = choice_of(given["sampler"], "sampler")
    if "logits_processors" in given:
        given["logits_processors"] = tuple(
            choice_of(choice, f"logits_processors[{i}]")
            for i, choice in enumerate(given["logits_processors"])
        )
    return Request(sampling=SamplingParams(**given), **extras, **source)


def core_requests(
    row_ids: Sequence[int],
    prompt: TokenizedPrompt,
    request: Request,
    eos_ids: Sequence[int],
    grammar: Grammar | None = None,
) -> list[GenerateRequest]:
    """The core's view of a request: one row for each choice. A seed is drawn if none is given.

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
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        typical_p=sampling.typical_p,
        frequency_penalty=sampling.frequency_penalty,
        presence_penalty=sampling.presence_penalty,
        repetition_penalty=sampling.repetition_penalty,
        repetition_window=sampling.repetition_window,
        bias_ids=[token for token, _ in sampling.logit_bias],
        bias_values=[-math.inf if v <= -MAX_BIAS else v for _, v in sampling.logit_bias],
        seed=secrets.randbits(63) if sampling.seed is None else sampling.seed,
        max_tokens=sampling.max_tokens or UNLIMITED,
        min_tokens=UNLIMITED if sampling.min_tokens < 0 else sampling.min_tokens,
        stop_ids=sorted(stops),
        logprobs=sampling.logprobs,
        grammar=grammar,
        fork=row_ids[0] if len(row_ids) > 1 else 0,
        namespace=request.namespace,
    )
    return [
        msgspec.structs.replace(first, id=row_id, choice=choice)
        for choice, row_id in enumerate(row_ids)
    ]
