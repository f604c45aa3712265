"""Tables for the documentation, made from the code that they describe."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import budmlx.errors
from budmlx.cli.app import COMMANDS
from budmlx.engine.images import formats, images
from budmlx.engine.request.grammars import MAX_FORM
from budmlx.engine.request.schemas import MAX_PATTERN
from budmlx.errors import BudmlxError, ConfigError, ModelLoadError
from budmlx.plugins import hookspecs
from budmlx.plugins.hookspecs import RINGS
from budmlx.server import body
from budmlx.server.app import ROUTES
from budmlx.server.dialects.registry import DIALECTS
from budmlx.server.errors import failure_of
from budmlx.server.limits import DEFAULTS
from budmlx.server.openapi import document

BEFORE_A_SERVER = (ConfigError, ModelLoadError)
"""Raised before there is a server that could answer with a status."""
_NAMES = re.compile(r'"#/components/schemas/(\w+)"')


def commands() -> str:
    """The commands of `budmlx`."""
    rows = [(f"`budmlx {command}`", summary) for command, (_, summary) in COMMANDS.items()]
    return table(("Command", "What it does"), rows)


def endpoints() -> str:
    """The server's own endpoints, from its OpenAPI document."""
    rows = []
    for path, methods in _document()["paths"].items():
        for method, operation in methods.items():
            key = "" if operation.get("security") == [] else "yes"
            rows.append((f"`{method.upper()} {path}`", f"{operation['summary']}.", key))
    return table(("Endpoint", "What it does", "Needs a key, where keys are set"), rows)


def statuses() -> str:
    """The HTTP statuses of errors."""
    found: dict[str, str] = {}
    for methods in _document()["paths"].values():
        for operation in methods.values():
            for status, response in operation["responses"].items():
                found[status] = response["description"]
    rows = [(status, found[status]) for status in sorted(found) if status != "200"]
    return table(("Status", "When"), rows)


def errors() -> str:
    """The exceptions, with their codes and HTTP statuses."""
    rows = []
    for kind in vars(budmlx.errors).values():
        if not inspect.isclass(kind) or kind is BudmlxError:
            continue
        code = f"`{kind.code}`" if kind.code else ""
        status = "" if issubclass(kind, BEFORE_A_SERVER) else str(failure_of(kind("")).status)
        rows.append((f"`{kind.__name__}`", code, status, _sentence(kind)))
    return table(("Exception", "`code`", "Status", "When"), rows)


def hooks() -> str:
    """The hooks of plugins, with the process or layer in which what they return runs."""
    rows = [
        (f"[`{name}`](hooks.md#{name})", ring, _sentence(getattr(hookspecs, name)))
        for name, ring in RINGS.items()
    ]
    return table(("Hook", "Runs in", "What it does"), rows)


def limits() -> str:
    """The fixed limits of requests; those that are settings are not among them."""
    schemas = _document()["components"]["schemas"]
    chat, completion = schemas["ChatRequest"], schemas["CompletionRequest"]
    stop = _bound(chat, "stop", "maxLength")
    rows = [
        ("Messages in a conversation", _bound(chat, "messages", "maxItems")),
        ("Choices (`n`, `best_of`)", _bound(chat, "n", "maximum")),
        ("Prompts in one completion request", _bound(completion, "prompt", "maxItems")),
        ("Stop strings", f"{_bound(chat, 'stop', 'maxItems')}, of {stop} characters each"),
        ("Stop token ids", _bound(chat, "stop_token_ids", "maxItems")),
        ("Entries in `logit_bias`", _bound(chat, "logit_bias", "maxProperties")),
        ("`logits_processors`", _bound(chat, "logits_processors", "maxItems")),
        ("Tools", _bound(chat, "tools", "maxItems")),
        ("Texts in a `choice` format", _bound(chat, "response_format", "maxItems")),
        ("Characters of a form, or of the schemas of tools that are enforced", MAX_FORM),
        ("Characters of a pattern", MAX_PATTERN),
        ("Characters of `cache_salt`", _bound(chat, "cache_salt", "maxLength")),
        ("Images in a request", images.MAX_IMAGES),
        (
            "One image file",
            f"{formats.MAX_BYTES >> 20} MiB, {formats.MAX_PIXELS // 10**6} megapixels",
        ),
        ("Nesting of JSON", f"{body.MAX_DEPTH} levels"),
        (
            "Time for a request body",
            f"{DEFAULTS.body_total_seconds:g} s, with pauses of at most "
            f"{DEFAULTS.body_idle_seconds:g} s",
        ),
        ("Time that a client may leave a stream unread", f"{DEFAULTS.stalled_seconds:g} s"),
        ("Connections", DEFAULTS.max_connections),
    ]
    return table(("What", "Limit"), [(what, str(limit)) for what, limit in rows])


def _document() -> Any:
    return json.loads(document(DIALECTS, tuple(chain(*ROUTES)), needs_key=True))


def _bound(schema: Any, field: str, keyword: str) -> int:
    """The largest value of a keyword anywhere in the schema of a field, and where that leads."""
    schemas = _document()["components"]["schemas"]
    text = json.dumps(schema["properties"][field])
    parts = [text, *(json.dumps(schemas[name]) for name in _NAMES.findall(text))]
    found = re.findall(rf'"{keyword}": (\d+)', "".join(parts))
    return max(map(int, found))


def _sentence(described: object) -> str:
    """The first sentence of a docstring."""
    text = " ".join((inspect.getdoc(described) or "").split())
    return re.split(r"(?<=\.) ", text)[0]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
