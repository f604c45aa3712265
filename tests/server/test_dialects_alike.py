"""The same conversation in every dialect: one prompt, the same changes told, the same form."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from budmlx import Engine, hookimpl
from budmlx.config import Config
from budmlx.engine.models.models import Models
from budmlx.plugins.specs import RequestRecord
from budmlx.server.app import HttpServer
from tests.server.tools import until

DEMO = Path(__file__).parents[2] / "budmlx" / "assets" / "tiny"
STRICT = """\
{%- set level = reasoning_effort | default('low') %}
{%- if level not in ('low', 'medium') %}{{ raise_exception('no such level') }}{% endif %}
{%- for m in messages %}
    {%- if m.role == 'system' and not loop.first %}{{ raise_exception('late') }}{% endif %}
    {{- '<|im_start|>' ~ m.role ~ '\\n' ~ m.content ~ '<|im_end|>\\n' }}
{%- endfor %}
{{- level ~ '<|im_start|>assistant\\n<think>\\n' }}"""
"""Takes instructions at the head only, knows two levels of effort, and opens the reasoning."""

TALK = [
    ("system", "Head"),
    ("user", "What is 2+2?"),
    ("assistant", "Four."),
    ("user", "And 1+1?"),
    ("system", "Late"),
]
SCHEMA = {"enum": ["yes", "no"]}
SAMPLING = {"temperature": 1.0, "seed": 1}
MESSAGES = [{"role": role, "content": text} for role, text in TALK]
NAMED = {"type": "json_schema", "name": "answer", "schema": SCHEMA}
ASKED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "messages": MESSAGES,
        "reasoning_effort": "high",
        "response_format": {"type": "json_schema", "json_schema": NAMED},
        "max_tokens": 60,
        **SAMPLING,
    },
    "/v1/responses": {
        "input": MESSAGES,
        "reasoning": {"effort": "high"},
        "text": {"format": NAMED},
        "max_output_tokens": 60,
        **SAMPLING,
    },
    "/v1/messages": {
        "system": "Head",
        "messages": MESSAGES[1:],
        "output_config": {"effort": "high", "format": {"type": "json_schema", "schema": SCHEMA}},
        "max_tokens": 60,
        **SAMPLING,
    },
    "/api/chat": {
        "messages": MESSAGES,
        "think": "high",
        "format": SCHEMA,
        "options": {"num_predict": 60, **SAMPLING},
    },
}


class Observer:
    def __init__(self) -> None:
        self.records: list[RequestRecord] = []

    @hookimpl
    def on_request_finished(self, record: RequestRecord) -> None:
        self.records.append(record)


OBSERVER = Observer()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    path = tmp_path_factory.mktemp("alike") / "demo"
    shutil.copytree(DEMO, path)
    (path / "chat_template.jinja").write_text(STRICT)
    settings: Any = {"engine_host": "thread", "prefix_cache": "0", "warmup": "off"}
    with Engine.load(path, plugins=[OBSERVER], **settings) as engine:
        yield engine


@pytest.fixture
async def client(engine: Engine) -> AsyncIterator[aiohttp.ClientSession]:
    server = await HttpServer.start(Models.of(engine, ["demo"]), Config(port=0, drain_seconds=0))
    async with aiohttp.ClientSession(server.url) as session:
        yield session
    await server.drain()


async def ask(
    client: aiohttp.ClientSession, path: str, **fields: Any
) -> tuple[str, dict[str, Any], str]:
    """The text of a reply, its usage, and what was told of changes."""
    body = {"model": "demo", "stream": False, **ASKED[path], **fields}
    async with client.post(path, json=body) as response:
        text = await response.text()
        assert response.status == 200, text
        told = response.headers.get("X-Budmlx-Warnings", "")
    if not body["stream"]:
        whole = json.loads(text)
        return TEXTS[path](whole), whole.get("usage", whole), told + text
    lines = [line.removeprefix("data: ") for line in text.splitlines() if "{" in line]
    return "".join(map(DELTAS[path], map(json.loads, lines))), {}, told + text


def of_output(whole: dict[str, Any]) -> str:
    (item,) = (item for item in whole["output"] if item["type"] == "message")
    return str(item["content"][0]["text"])


def of_blocks(whole: dict[str, Any]) -> str:
    return "".join(block["text"] for block in whole["content"] if block["type"] == "text")


def of_choice(chunk: dict[str, Any]) -> str:
    return "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])


def of_event(event: dict[str, Any]) -> str:
    if event["type"] == "response.output_text.delta":
        return str(event["delta"])
    delta = event.get("delta") if event["type"] == "content_block_delta" else None
    return str(delta.get("text", "")) if delta else ""


TEXTS: dict[str, Any] = {
    "/v1/chat/completions": lambda whole: whole["choices"][0]["message"]["content"],
    "/v1/responses": of_output,
    "/v1/messages": of_blocks,
    "/api/chat": lambda whole: whole["message"]["content"],
}
DELTAS: dict[str, Any] = {
    "/v1/chat/completions": of_choice,
    "/v1/responses": of_event,
    "/v1/messages": of_event,
    "/api/chat": TEXTS["/api/chat"],
}
COUNTS = ("prompt_tokens", "input_tokens", "prompt_eval_count")


async def test_one_conversation_is_one_prompt_and_one_form(client: aiohttp.ClientSession) -> None:
    prompts, contents = set(), set()
    for path in ASKED:
        content, usage, told = await ask(client, path)
        streamed, _, _ = await ask(client, path, stream=True)
        assert content == streamed and content in ('"yes"', '"no"'), (path, content, streamed)
        assert "system-reminder" in told and "was taken as medium" in told, (path, told)
        prompts.add(next(usage[name] for name in COUNTS if name in usage))
        contents.add(content)
    assert len(prompts) == len(contents) == 1, (prompts, contents)


@pytest.mark.parametrize("kind", ["parsed", "hidden", "raw", "none"])
async def test_a_form_is_the_content_with_every_reasoning_format(
    client: aiohttp.ClientSession, kind: str
) -> None:
    path = "/v1/chat/completions"
    for form, contents in (
        ({"type": "json_schema", "json_schema": NAMED}, ('"yes"', '"no"')),
        ({"type": "choice", "choice": ["yes", "\n no"]}, ("yes", "\n no")),
    ):
        for stream in (False, True):
            fields = {"response_format": form, "reasoning_format": kind, "stream": stream}
            content, _, _ = await ask(client, path, **fields)
            assert content in contents


@pytest.mark.parametrize("path", ASKED)
async def test_what_is_answered_and_what_is_refused_has_a_record(
    client: aiohttp.ClientSession, path: str
) -> None:
    OBSERVER.records.clear()
    await ask(client, path)
    async with client.post(path, json={"model": "demo", "messages": 1, "input": 1}) as response:
        assert response.status == 400
    await until(lambda: len(OBSERVER.records) == 2)
    ends = [(each.outcome, each.route, bool(each.response_id)) for each in OBSERVER.records]
    told = path != "/api/chat"  # Ollama's protocol has no ids.
    assert ends == [("completed", path, told), ("refused", path, False)]
    assert all(each.request_id for each in OBSERVER.records)


async def test_ids_that_go_on_have_no_budget(client: aiohttp.ClientSession) -> None:
    body = {"model": "demo", "prompt": "Hi", "think": False, "stream": False}
    body |= {"options": {"num_predict": 4}}
    for fields, told in (({}, False), ({"context": []}, True)):
        async with client.post("/api/generate", json=body | fields) as response:
            assert response.status == 200
            warnings = response.headers.get("X-Budmlx-Warnings", "")
        assert ("think has no effect" in warnings) is told
