"""What the OpenAPI document says of request fields beyond their types."""

from __future__ import annotations

from typing import Any

from budmlx.engine.request.tools import MAX_CHOICES, MAX_TOOLS
from budmlx.server.dialects.openai.text_request import MAX_PROMPTS
from budmlx.types import MAX_TTL

Schema = dict[str, Any]

NAME: Schema = {"type": "string", "pattern": "^[a-zA-Z0-9_.-]{1,128}$"}
TEXT: Schema = {"type": "string", "minLength": 1}
FUNCTION: Schema = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": NAME,
        "description": {"type": ["string", "null"]},
        "parameters": {
            "type": ["object", "null"],
            "description": 'JSON schema of the arguments, of type "object"; {} allows any object.',
        },
        "strict": {
            "type": ["boolean", "null"],
            "description": "Constrain the arguments to the schema while they are written.",
        },
    },
}
TOOL: Schema = {
    "type": "object",
    "required": ["type", "function"],
    "properties": {"type": {"const": "function"}, "function": FUNCTION},
}
NAMED: Schema = {"type": "object", "required": ["name"], "properties": {"name": NAME}}


def _format(kind: str, **fields: Schema) -> Schema:
    return {
        "type": "object",
        "required": ["type", *fields],
        "properties": {"type": {"const": kind}, **fields},
    }


_JSON_SCHEMA: Schema = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "description": {"type": "string"},
        "schema": {"type": ["object", "boolean", "null"]},
        "strict": {"type": ["boolean", "null"]},
    },
}

IDS: Schema = {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}}
_PROMPT: Schema = {"anyOf": [TEXT, IDS]}

SCHEMAS: dict[str, Schema] = {
    "prompt": {
        "anyOf": [
            *_PROMPT["anyOf"],
            {"type": "array", "minItems": 1, "maxItems": MAX_PROMPTS, "items": _PROMPT},
        ]
    },
    "tokens": {"type": "array", "items": IDS["items"]},
    "cache": {
        "anyOf": [
            {"type": "boolean"},
            {"const": "bypass"},
            {
                "type": "object",
                "required": ["ttl"],
                "properties": {
                    "ttl": {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_TTL}
                },
                "additionalProperties": False,
            },
        ]
    },
    "tools": {"type": "array", "maxItems": MAX_TOOLS, "items": TOOL},
    "tool_choice": {
        "anyOf": [
            {"enum": ["none", "auto", "required", "any"]},
            {
                "type": "object",
                "required": ["function"],
                "properties": {"type": {"const": "function"}, "function": NAMED},
            },
        ]
    },
    "functions": {"type": "array", "maxItems": MAX_TOOLS, "items": FUNCTION},
    "function_call": {"anyOf": [{"enum": ["none", "auto"]}, NAMED]},
    "response_format": {
        "anyOf": [
            _format("text"),
            _format("json_object"),
            _format("json_schema", json_schema=_JSON_SCHEMA),
            _format("regex", regex=TEXT),
            _format("grammar", grammar=TEXT),
            _format(
                "choice",
                choice={"type": "array", "minItems": 1, "maxItems": MAX_CHOICES, "items": TEXT},
            ),
        ]
    },
}
"""Schemas of fields of bodies that the wire models leave to code."""

_NO_IMAGES: Schema = {
    "type": ["string", "array", "null"],
    "items": {"properties": {"type": {"const": "text"}}},
}

MESSAGE: Schema = {
    "anyOf": [
        {
            "required": ["content"],
            "properties": {"role": {"const": "user"}, "content": {"type": ["string", "array"]}},
        },
        {
            "required": ["content"],
            "properties": {"content": {**_NO_IMAGES, "type": ["string", "array"]}},
        },
        {
            "required": ["tool_calls"],
            "properties": {
                "role": {"const": "assistant"},
                "content": _NO_IMAGES,
                "tool_calls": {"type": "array", "minItems": 1},
            },
        },
        {
            "required": ["function_call"],
            "properties": {
                "role": {"const": "assistant"},
                "content": _NO_IMAGES,
                "function_call": {"type": "object"},
            },
        },
    ]
}
"""Only calls stand in for the content of a message; only a user's holds images."""

NOTES: dict[str, str] = {
    "model": "A name that `GET /v1/models` lists; the demo model answers to every name.",
    "messages": "The conversation so far.",
    "prompt": "Text or token ids to continue, or a list of either, each answered by itself.",
    "tokens": "Token ids.",
    "add_special_tokens": "Begin with what the model expects there, such as `<s>`.",
    "stream": "Answer with server-sent events; absent, the Accept header decides.",
    "stream_options": "How a stream tells its usage and its tool calls.",
    "max_completion_tokens": "The same as `max_tokens`, and goes before it.",
    "min_completion_tokens": "The same as `min_tokens`, and goes before it.",
    "random_seed": "Another name of `seed`, which goes before it.",
    "n": "How many choices; they share one prefill.",
    "best_of": "Generate so many and return the `n` most likely; not for streams.",
    "echo": "Begin each choice with its prompt; not with `logprobs`.",
    "logprobs": "Report log probabilities of the tokens of the reply.",
    "top_logprobs": "So many of the most likely tokens at each place; implies `logprobs`.",
    "tools": "Functions that the model may call.",
    "tool_choice": "Whether it calls one; `any` is `required`.",
    "parallel_tool_calls": "It may call several at once.",
    "functions": "The older name of tools; has no effect beside `tools`.",
    "function_call": "What `tool_choice` is for tools, for functions.",
    "response_format": "The form of the content, enforced while it is written. No effect on a "
    "forced call.",
    "reasoning_format": "Reasoning apart (`parsed`), within the content (`raw`), or not at all.",
    "reasoning_effort": "For the chat template; `none` asks for no reasoning.",
    "disable_reasoning": "For the chat template: no reasoning.",
    "clear_thinking": "For the chat template: leave out the reasoning of former turns.",
    "chat_template_kwargs": "Further variables for the chat template.",
    "cache": "Keep the reply and answer the same request from it; `bypass` computes anew.",
    "cache_salt": "Kept replies and reused prompts are shared only where this is the same.",
    "explain_cache": "Say how much of the prompt's KV was reused, and why not more.",
    "service_tier": "Any text; changes nothing.",
}
"""A sentence on each field, by its name."""
