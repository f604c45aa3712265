"""Requests of every dialect, drawn at random; each may be sent as it is."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.server.test_images import data_url, encoded
from tests.soak.world import EYES, TEXT, VECTORS
from tests.vision_plugin import picture

PLANTED = "planted text 5e0c77"
"""In every prompt, and nowhere else."""
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Oslo"]}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOL = {"name": "get_weather", "description": "Of a city.", "parameters": SCHEMA}
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "rests"]

Make = Callable[[random.Random], "Asked"]
MAKERS: list[tuple[int, Make]] = []


@dataclass(frozen=True)
class Asked:
    """A request. bad: it must be refused with 400."""

    path: str
    body: dict[str, Any]
    bad: bool = False
    headers: dict[str, str] = field(default_factory=dict)


def drawn(chance: random.Random) -> Asked:
    """Any of them."""
    weights, makers = zip(*MAKERS, strict=True)
    return chance.choices(makers, weights)[0](chance)


def _kind(weight: int) -> Callable[[Make], Make]:
    def add(make: Make) -> Make:
        MAKERS.append((weight, make))
        return make

    return add


def words(chance: random.Random, most: int = 120) -> str:
    """A text that begins like others, with what is planted in it."""
    start = " ".join(WORDS * chance.choice([1, 2, 4]))
    rest = " ".join(chance.choices(WORDS, k=chance.randrange(1, most)))
    return f"{start} {PLANTED} {rest}"


def sampling(chance: random.Random) -> dict[str, Any]:
    """Sampling parameters, of which most are left out."""
    every: dict[str, Any] = {
        "temperature": chance.choice([0, 0.7, 1.3]),
        "top_p": chance.choice([0.5, 1]),
        "seed": chance.randrange(100),
        "frequency_penalty": chance.choice([0.3, 1]),
        "presence_penalty": 0.5,
        "stop": ["fox", "zzz"],
        "logit_bias": {str(chance.randrange(260)): chance.choice([-100, 5])},
    }
    return {name: value for name, value in every.items() if chance.random() < 0.25}


@_kind(8)
def chat(chance: random.Random) -> Asked:
    messages = [{"role": "user", "content": words(chance)}]
    for _ in range(chance.choice([0, 0, 1, 2])):
        messages += [
            {"role": "assistant", "content": "fox"},
            {"role": "user", "content": words(chance, 20)},
        ]
    body = {
        "model": TEXT,
        "messages": messages,
        "max_tokens": chance.randrange(1, 60),
        "stream": chance.random() < 0.6,
        **sampling(chance),
    }
    extras: dict[str, Any] = {
        "n": chance.choice([2, 3]),
        "logprobs": True,
        "adapter": chance.choice(["a", "b"]),
        "cache": chance.choice([True, {"ttl": 5}]),
        "priority": "background",
        "ignore_eos": True,
        "prediction": {"type": "content", "content": "the quick brown fox"},
    }
    body |= {name: value for name, value in extras.items() if chance.random() < 0.15}
    return Asked("/v1/chat/completions", body)


@_kind(3)
def form(chance: random.Random) -> Asked:
    """A chat whose reply has a form: a schema, a choice, or a call of a tool."""
    body = {
        "model": TEXT,
        "messages": [{"role": "user", "content": words(chance)}],
        "max_tokens": 60,
        "stream": chance.random() < 0.5,
        "temperature": 1.2,
    }
    forms: list[dict[str, Any]] = [
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": SCHEMA},
            }
        },
        {"response_format": {"type": "choice", "choice": ["one", "two", f"{chance.random()}"]}},
        {"response_format": {"type": "regex", "regex": f"[a-f]{{{chance.randrange(1, 9)}}}"}},
        {"tools": [{"type": "function", "function": TOOL}], "tool_choice": "required"},
        {"tools": [{"type": "function", "function": TOOL}]},
    ]
    return Asked("/v1/chat/completions", {**body, **chance.choice(forms)})


@_kind(2)
def look(chance: random.Random) -> Asked:
    """A chat about a picture, of which some were shown before."""
    url = data_url(encoded(picture(chance.randrange(12), *chance.choice([(8, 8), (40, 20)]))))
    parts = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": words(chance, 30)},
    ]
    messages = [{"role": "user", "content": parts}]
    more = {"stream": chance.random() < 0.5, "max_tokens": chance.randrange(1, 20)}
    return Asked("/v1/chat/completions", {"model": EYES, "messages": messages, **more})


@_kind(2)
def completion(chance: random.Random) -> Asked:
    more = {"stream": chance.random() < 0.5, "max_tokens": chance.randrange(1, 40)}
    return Asked("/v1/completions", {"model": TEXT, "prompt": words(chance), **more})


@_kind(3)
def message(chance: random.Random) -> Asked:
    body: dict[str, Any] = {
        "model": TEXT,
        "max_tokens": chance.randrange(1, 50),
        "messages": [{"role": "user", "content": words(chance)}],
        "stream": chance.random() < 0.6,
    }
    if chance.random() < 0.3:
        body["tools"] = [{"name": "get_weather", "input_schema": SCHEMA}]
        body["tool_choice"] = {"type": chance.choice(["auto", "any"])}
    return Asked("/v1/messages", body)


@_kind(3)
def response(chance: random.Random) -> Asked:
    body = {
        "model": TEXT,
        "input": words(chance),
        "max_output_tokens": chance.randrange(16, 50),
        "stream": chance.random() < 0.6,
        "store": chance.random() < 0.7,
    }
    return Asked("/v1/responses", body)


@_kind(3)
def ollama(chance: random.Random) -> Asked:
    options = {"num_predict": chance.randrange(1, 40), "temperature": chance.choice([0, 1])}
    body: dict[str, Any] = {"model": TEXT, "options": options, "stream": chance.random() < 0.6}
    if chance.random() < 0.5:
        return Asked("/api/generate", {**body, "prompt": words(chance)})
    messages = [{"role": "user", "content": words(chance)}]
    return Asked("/api/chat", {**body, "messages": messages})


@_kind(3)
def vectors(chance: random.Random) -> Asked:
    if chance.random() < 0.3:
        return Asked("/api/embed", {"model": VECTORS, "input": [words(chance), "fox"]})
    inputs = [words(chance) for _ in range(chance.randrange(1, 6))]
    return Asked("/v1/embeddings", {"model": VECTORS, "input": inputs})


@_kind(2)
def ranking(chance: random.Random) -> Asked:
    if chance.random() < 0.5:
        choices = [f"{PLANTED} {word}" for word in chance.sample(WORDS[1:], 3)]
        messages = [{"role": "user", "content": words(chance)}]
        return Asked("/v1/decisions", {"model": TEXT, "messages": messages, "choices": choices})
    documents = [words(chance, 30) for _ in range(3)]
    return Asked("/v2/rerank", {"model": TEXT, "query": words(chance), "documents": documents})


@_kind(2)
def counting(chance: random.Random) -> Asked:
    messages = [{"role": "user", "content": words(chance)}]
    return chance.choice(
        [
            Asked("/v1/tokenize", {"model": TEXT, "prompt": words(chance)}),
            Asked("/v1/messages/count_tokens", {"model": TEXT, "messages": messages}),
            Asked("/v1/responses/input_tokens", {"model": TEXT, "input": words(chance)}),
            Asked("/v1/estimate", {"model": TEXT, "messages": messages}),
        ]
    )


@_kind(2)
def wrong(chance: random.Random) -> Asked:
    """What must be refused."""
    good = chance.choice([chat, message, response, completion])(chance)
    bad: dict[str, Any] = chance.choice(
        [
            {"temperature": PLANTED},
            {"model": ["org/text"]},
            {"stream": PLANTED},
            {"max_tokens": -1, "max_output_tokens": -1},
            {"tools": [PLANTED], "prompt": 5},
        ]
    )
    return Asked(good.path, {**good.body, **bad}, bad=True)


def lines(chance: random.Random) -> bytes:
    """The lines of a batch of chats."""
    found = []
    for number in range(chance.randrange(1, 8)):
        messages = [{"role": "user", "content": words(chance)}]
        body = {"model": TEXT, "messages": messages, "max_tokens": chance.randrange(1, 30)}
        asked = {"custom_id": f"{number}", "method": "POST", "url": "/v1/chat/completions"}
        found.append(json.dumps({**asked, "body": body}))
    return "\n".join(found).encode()
