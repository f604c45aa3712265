"""Requests from the arguments of the Python API."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, get_args

from budmlx.engine.request.messages import parse_messages
from budmlx.engine.request.plugin_choices import choice_of
from budmlx.engine.request.tools import parse_response_format, parse_tool_choice, parse_tools
from budmlx.errors import InvalidRequestError
from budmlx.types import CachePolicy, Message, Priority, Request, SamplingParams

Messages = str | Sequence[Message | Mapping[str, Any]]

REQUEST_OPTIONS = frozenset(
    {"n", "chat_template_kwargs", "cache", "tools", "tool_choice", "parallel_tool_calls"}
    | {"incremental_calls", "response_format", "reasoning", "cache_salt", "explain_cache"}
    | {"adapter", "priority", "speculation", "prediction", "suffix"}
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


def check_priority(options: Mapping[str, Any]) -> None:
    """Raise InvalidRequestError for a priority that there is not."""
    if options.get("priority", "interactive") not in get_args(Priority):
        raise InvalidRequestError("priority must be interactive or background.", param="priority")


def check_names(given: Iterable[str], known: Collection[str]) -> None:
    """Refuse options that there are not. Raises InvalidRequestError; `param` names the first."""
    for name in given:
        if name not in known:
            raise InvalidRequestError(
                f"Unknown parameter {name}. Known parameters: {', '.join(sorted(known))}.",
                param=name,
            )


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
    if not isinstance(extras.get("speculation", True), bool):
        raise InvalidRequestError("speculation must be a bool.", param="speculation")
    check_priority(extras)
    if not isinstance(extras.get("adapter", ""), str):
        raise InvalidRequestError("adapter must be a name.", param="adapter")
    if not isinstance(extras.get("prediction", ""), str):
        raise InvalidRequestError("prediction must be a text.", param="prediction")
    check_names(given, SAMPLING_FIELDS | REQUEST_OPTIONS)
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
    sampling = SamplingParams(**given)
    return Request(sampling=sampling, given=frozenset(given), **extras, **source)
