"""The ollama package, and what is built on it: langchain-ollama, litellm, llama-index, llm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.clients.server import KEY, needed, scripted

ollama = needed("ollama")
pydantic = needed("pydantic")

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call>'
SCRIPTS = {
    "sum": [f"<think>\nI add them.\n</think>\n\nOne moment.\n{CALL}", "It is five."],
    "loud": ["<think>\nQuietly.\n</think>\n\nLoud and clear."],
}
SUM = {"role": "user", "content": "script sum; What is 2 + 3?"}
LOUD = {"role": "user", "content": "script loud; Say something."}
MODEL = "agent"


def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: the first
        b: the second
    """
    return a + b


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server without keys, which Ollama's clients mostly cannot send."""
    with scripted(tmp_path_factory.mktemp("model") / MODEL, SCRIPTS, BUDMLX_API_KEYS="") as url:
        yield url


@pytest.fixture
def client(agent: str) -> Any:
    return ollama.Client(agent)


def test_what_is_told_of_models(client: Any) -> None:
    (listed,) = client.list().models
    assert listed.model == f"{MODEL}:latest" and listed.size > 1_000_000
    shown = client.show(MODEL)
    assert {"completion", "tools", "thinking"} <= set(shown.capabilities)
    assert shown.modelinfo["llama.context_length"] == 65_536
    (running,) = client.ps().models
    assert running.name == listed.model and running.context_length <= 65_536
    assert client.pull(MODEL).status == "success"
    assert [each.status for each in client.pull(MODEL, stream=True)][-1] == "success"
    with pytest.raises(ollama.ResponseError) as caught:
        client.show("nope")
    assert caught.value.status_code == 404
    for call in (lambda: client.copy(MODEL, "b"), lambda: client.create("x", from_=MODEL)):
        with pytest.raises(ollama.ResponseError) as caught:
            call()
        assert caught.value.status_code == 501


def test_a_loop_with_a_function(client: Any) -> None:
    messages: list[Any] = [SUM]
    reply = client.chat(MODEL, messages=messages, tools=[add])
    assert reply.message.thinking == "I add them." and reply.message.content == "One moment."
    (call,) = reply.message.tool_calls
    assert call.function.name == "add" and add(**call.function.arguments) == 5
    messages += [reply.message, {"role": "tool", "content": "5", "tool_name": "add"}]
    stream = list(client.chat(MODEL, messages=messages, tools=[add], stream=True))
    assert "".join(each.message.content for each in stream) == "It is five."
    last = stream[-1]
    assert last.done and last.done_reason == "stop" and last.eval_count > 1
    assert last.total_duration >= last.prompt_eval_duration + last.eval_duration


def test_texts_and_errors(client: Any) -> None:
    options = {"num_predict": 200, "temperature": 1.5, "seed": 3, "num_ctx": 8192}
    reply = client.generate(MODEL, "Hi", system="Be short.", think=False, options=options)
    assert reply.response == "Hello." and reply.done_reason == "stop"
    # Raw text starts no script: the random model may end it at once.
    *_, last = client.generate(MODEL, "Hi", stream=True, raw=True, options={"num_predict": 3})
    assert last.done and last.eval_count <= 3
    *_, last = client.generate(MODEL, LOUD["content"], stream=True, options={"num_predict": 3})
    assert last.done_reason == "length" and last.eval_count == 3
    assert client.generate(MODEL, keep_alive=-1.0).done_reason == "load"
    logged = client.chat(MODEL, messages=[LOUD], logprobs=True, top_logprobs=2)
    assert logged.logprobs and len(logged.logprobs[-1].top_logprobs) == 2
    for wrong in (
        lambda: client.embed(MODEL, "a"),
        lambda: client.chat(MODEL, messages=[LOUD], options={"temperature": 9}),
        lambda: client.generate(MODEL, "a", suffix="b"),
        lambda: list(client.chat("nope", messages=[LOUD], stream=True)),
    ):
        with pytest.raises(ollama.ResponseError) as caught:
            wrong()
        assert caught.value.status_code in (400, 404)


def test_a_form_and_a_key(url: str) -> None:
    class Pet(pydantic.BaseModel, extra="forbid"):
        kind: Literal["cat", "dog"]

    client = ollama.Client(url, headers={"Authorization": f"Bearer {KEY}"})
    form, options = Pet.model_json_schema(), {"num_predict": 200, "seed": 3}
    pet = [{"role": "user", "content": "A pet"}]
    reply = client.chat("demo", messages=pet, format=form, options=options)
    assert Pet.model_validate_json(reply.message.content).kind in ("cat", "dog")
    with pytest.raises(ollama.ResponseError) as caught:
        ollama.Client(url).list()
    assert caught.value.status_code == 401


def test_langchain(agent: str) -> None:
    chats = needed("langchain_ollama")
    model = chats.ChatOllama(model=MODEL, base_url=agent, reasoning=True, num_predict=200)
    reply = model.invoke(LOUD["content"])
    assert reply.content == "Loud and clear."
    assert reply.additional_kwargs["reasoning_content"] == "Quietly."
    assert reply.usage_metadata["output_tokens"] > 2
    assert "".join(chunk.text for chunk in model.stream("Hi")) == "Hello."
    bound = model.bind_tools([add])
    first = bound.invoke([SUM])
    (call,) = first.tool_calls
    assert (call["name"], call["args"]) == ("add", {"a": 2, "b": 3})
    result = {"role": "tool", "content": "5", "tool_call_id": call["id"]}
    assert bound.invoke([SUM, first, result]).content == "It is five."
    assert chats.OllamaLLM(model=MODEL, base_url=agent).invoke("Hi") == "Hello."


def test_litellm(agent: str) -> None:
    litellm = needed("litellm")
    options = {"model": f"ollama_chat/{MODEL}", "api_base": agent, "max_tokens": 200}
    reply = litellm.completion(messages=[LOUD], **options)
    assert reply.choices[0].message.content == "Loud and clear."
    chunks = litellm.completion(messages=[LOUD], stream=True, **options)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text.endswith("Loud and clear.")
    tool = {
        "type": "function",
        "function": {
            "name": "add",
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            },
        },
    }
    first = litellm.completion(messages=[SUM], tools=[tool], **options).choices[0].message
    (call,) = first.tool_calls
    assert json.loads(call.function.arguments) == {"a": 2, "b": 3}
    older = litellm.completion(
        model=f"ollama/{MODEL}", api_base=agent, messages=[{"role": "user", "content": "Hi"}]
    )
    assert older.choices[0].message.content == "Hello."


def test_llama_index(agent: str) -> None:
    llms = needed("llama_index.llms.ollama")
    chat = needed("llama_index.core.llms")
    model = llms.Ollama(model=MODEL, base_url=agent, request_timeout=60)
    reply = model.chat([chat.ChatMessage(role="user", content=LOUD["content"])])
    assert reply.message.content == "Loud and clear."
    assert str(model.complete("Hi")) == "Hello."
    assert "".join(part.delta or "" for part in model.stream_complete("Hi")) == "Hello."


def test_llm(agent: str, tmp_path: Path) -> None:
    needed("llm_ollama")
    environment = {**os.environ, "OLLAMA_HOST": agent, "LLM_USER_PATH": str(tmp_path)}
    for options in ([], ["--no-stream"]):
        command = [sys.executable, "-m", "llm", "-m", f"ollama/{MODEL}", *options, LOUD["content"]]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip().endswith("Loud and clear.")
