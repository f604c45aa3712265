"""What the dialect promises: parameters, reasoning, errors, and what is common to all dialects."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from budmlx.server.app import HttpServer
from tests.server.conftest import Start
from tests.server.dialects.responses.tools import AGENTS, EXEC, PATCH, ask, events
from tests.server.tools import check_error, exchange, post, until


class Cat(BaseModel):
    lives: int
    black: bool


async def test_the_sdk_creates_streams_and_parses(sdk: openai.AsyncOpenAI) -> None:
    made = await sdk.responses.create(model="m", input="script think;")
    assert made.output_text == "A dog." and made.output[0].type == "reasoning"
    async with sdk.responses.stream(model="m", input="script think;") as stream:
        kinds = [event.type async for event in stream]
        final = await stream.get_final_response()
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed"
    assert final.output_text == "A dog."
    parsed = await sdk.responses.parse(
        model="m", input="A cat", text_format=Cat, max_output_tokens=200
    )
    assert isinstance(parsed.output_parsed, Cat)
    assert isinstance(json.loads(parsed.output_text), dict)


async def test_a_forced_call(sdk: openai.AsyncOpenAI) -> None:
    strict = {
        **EXEC,
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"n": {"enum": [1, 2]}},
            "required": ["n"],
            "additionalProperties": False,
        },
    }
    choices: list[Any] = [
        {"type": "function", "name": "exec_command"},
        {
            "type": "allowed_tools",
            "mode": "required",
            "tools": [{"type": "function", "name": "exec_command"}],
        },
    ]
    for choice in choices:
        made = await sdk.responses.create(
            model="m",
            input="Hi",
            tools=[strict, PATCH],  # type: ignore[list-item]
            tool_choice=choice,
            parallel_tool_calls=False,
            max_output_tokens=80,
        )
        [call] = [item for item in made.output if item.type == "function_call"]
        assert call.name == "exec_command" and json.loads(call.arguments)["n"] in (1, 2)


async def test_reasoning_comes_back(server: HttpServer) -> None:
    made = (await ask(server, input="script think;", store=False)).json
    thought, said = made["output"]
    assert thought["content"] == [{"type": "reasoning_text", "text": "A cat, perhaps."}]
    asked = {"role": "user", "content": "script think;"}
    more = {"role": "user", "content": "Or?"}
    counts = []
    sealed = {"type": "reasoning", "summary": [], "encrypted_content": thought["encrypted_content"]}
    for reasoning in (
        thought,
        sealed,
        {**sealed, "summary": [{"type": "summary_text", "text": "Something else."}]},
        {**sealed, "encrypted_content": "gAAAAB-of-another", "content": thought["content"]},
    ):
        again = (await ask(server, input=[asked, reasoning, said, more], store=False)).json
        counts.append(again["usage"]["input_tokens"])
        assert again["output"][-1]["content"][0]["text"] == "Or both."
    assert len(set(counts)) == 1
    without = (await ask(server, input=[asked, said, more], store=False)).json
    assert without["usage"]["input_tokens"] < counts[0]


async def test_reasoning_as_a_summary(server: HttpServer) -> None:
    found = events(
        await ask(server, input="script think;", reasoning={"summary": "auto"}, stream=True)
    )
    kinds = [event["type"].removeprefix("response.") for event in found]
    assert "reasoning_text.delta" not in kinds
    first = kinds.index("reasoning_summary_part.added")
    assert kinds[first - 1] == "output_item.added"
    assert kinds[first + 1] == "reasoning_summary_text.delta"
    thought = found[-1]["response"]["output"][0]
    assert thought["summary"] == [{"type": "summary_text", "text": "A cat, perhaps."}]
    assert thought["content"] == [] and thought["encrypted_content"]


async def test_logprobs(server: HttpServer) -> None:
    asked = {"input": "Hi", "include": ["message.output_text.logprobs"], "top_logprobs": 2}
    made = (await ask(server, **asked)).json
    [entry, *_] = made["output"][0]["content"][0]["logprobs"]
    assert entry["token"] == "Hello." and len(entry["top_logprobs"]) == 2
    *_, last = events(await ask(server, **asked, stream=True))
    assert last["response"]["output"][0]["content"][0]["logprobs"] == [entry]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": "Hi", "conversation": "conv_1"}, "conversation"),
        ({"input": "Hi", "prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"input": []}, "input"),
        ({}, "input"),
        ({"input": [{"role": "friend", "content": "Hi"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": 5}]}, "input[0].content"),
        ({"input": ["Hi"]}, "input[0]"),
        ({"input": "Hi", "temperature": 3}, "temperature"),
        ({"input": "Hi", "max_output_tokens": 0}, "max_output_tokens"),
        ({"input": "Hi", "metadata": {"a": 1}}, "metadata.a"),
        ({"input": "Hi", "tools": [{"type": "function"}]}, "tools[0].name"),
        ({"input": "Hi", "tools": [EXEC, EXEC]}, "tools[1]"),
        ({"input": "Hi", "tool_choice": "required"}, "tool_choice"),
        (
            {"input": "Hi", "tools": [EXEC], "tool_choice": {"type": "function", "name": "x"}},
            "tool_choice.name",
        ),
        ({"input": "Hi", "text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ({"input": "Hi", "text": {"format": {"type": "xml"}}}, "text.format.type"),
        (
            {"input": [{"type": "function_call_output", "call_id": "a", "output": "b"}]},
            "input[0]",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]},
            "input[0].content[0].file_data",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_data": "ä"}]}]},
            "input[0].content[0].file_data",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "input[0].content[0].type",
        ),
    ],
)
async def test_what_is_refused_is_named(
    server: HttpServer, fields: dict[str, Any], param: str
) -> None:
    check_error(await ask(server, **fields), 400, param=param)


async def test_what_has_no_effect_is_in_the_header(server: HttpServer, start: Start) -> None:
    asked = {
        "input": [{"role": "user", "content": "Hi"}, {"type": "compaction", "id": "x"}],
        "tools": [{"type": "web_search"}, EXEC],
        "max_tool_calls": 3,
        "strange": 1,
        "prompt_cache_key": "session",
        "truncation": "auto",
        "include": ["reasoning.encrypted_content", "web_search_call.results"],
        "top_logprobs": 1,
        "logprobs": 2,
    }
    for streaming in (False, True):
        answer = await ask(server, **asked, stream=streaming)
        warnings = json.loads(answer.headers["X-Budmlx-Warnings"])
        assert [warning.split("`")[1] for warning in warnings] == [
            "max_tool_calls",
            "strange",
            "logprobs",
            "truncation",
            "include[1]",
            "tools[0]",
            "input[1]",
        ]
    assert "X-Budmlx-Warnings" not in (await ask(server, input="Hi")).headers
    strict = await start(strict=True)
    check_error(await ask(strict, input="Hi", strange=1), 400, param="strange")


async def test_files_of_text(server: HttpServer) -> None:
    def file(data: str) -> list[Any]:
        part = {"type": "input_file", "filename": "a.txt", "file_data": data}
        return [{"role": "user", "content": [part]}]

    said = (await ask(server, input=file("data:text/plain;base64,c2NyaXB0IHRoaW5rOw=="))).json
    assert said["output"][-1]["content"][0]["text"] == "A dog."
    pdf = await ask(server, input=file("data:application/pdf;base64,JVBERi0xLjQ="))
    check_error(pdf, 400, param="input[0].content[0].file_data")
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c"}
    result = {**output, "output": file("data:application/pdf;base64,JVBERi0xLjQ=")[0]["content"]}
    read = await ask(server, input=[{"role": "user", "content": "Read"}, call, result])
    assert read.status == 200 and "PDF" in read.headers["X-Budmlx-Warnings"]


async def test_a_prompt_that_is_too_long(server: HttpServer) -> None:
    error = check_error(await ask(server, input="cat " * 70_000), 400)
    assert error["code"] == "context_length_exceeded" and error["param"] == "input"


async def test_the_response_cache_and_explanations(server: HttpServer) -> None:
    asked = {"input": "script think;", "cache": True, "temperature": 0, "explain_cache": True}
    first, second = [(await ask(server, **asked)).json for _ in range(2)]
    assert (first["cached"], second["cached"]) == (False, True)
    assert first["output"][1]["content"] == second["output"][1]["content"]
    assert first["cache_explanation"]["prompt_tokens"] == first["usage"]["input_tokens"]
    *_, last = events(await ask(server, **asked, stream=True))
    assert last["response"]["cached"]


async def test_a_seed(server: HttpServer) -> None:
    schema = {"type": "integer", "minimum": 0, "maximum": 10**9}
    form = {"format": {"type": "json_schema", "name": "n", "schema": schema}}
    texts = [
        (
            await ask(server, input="Hi", max_output_tokens=60, text=form, temperature=2, seed=seed)
        ).json["output"][-1]
        for seed in (5, 5, 6)
    ]
    assert texts[0]["content"] == texts[1]["content"] != texts[2]["content"]


async def test_a_client_that_goes_ends_its_response(server: HttpServer) -> None:
    body = json.dumps({"model": "m", "input": "Hi", "ignore_eos": True, "stream": True})
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(post(body.encode(), "/v1/responses"))
    await reader.readuntil(b"response.output_text.delta")
    assert server.in_flight.count == 1
    writer.close()
    await until(lambda: server.in_flight.count == 0)


async def test_a_failure_in_a_stream_is_its_last_event(start: Start) -> None:
    server = await start(drain_seconds=0.2)
    body = json.dumps({"model": "m", "input": "Hi", "ignore_eos": True, "stream": True})
    asked = asyncio.create_task(exchange(server, post(body.encode(), "/v1/responses")))
    await until(lambda: server.in_flight.count == 1)
    await server.drain()
    *_, last = events(await asked)
    assert last["type"] == "response.failed"
    assert last["response"]["error"]["code"] == "server_error"


async def test_keep_alive_repeats_that_it_is_in_progress(start: Start) -> None:
    server = await start(hold_seconds=0.0, keepalive_seconds=0.01)
    found = events(await ask(server, input="cat " * 1500, stream=True))
    kinds = [event["type"] for event in found]
    assert kinds[:4] == ["response.created", *["response.in_progress"] * 3]


@pytest.mark.parametrize("background", [False, True])
async def test_a_stream_says_how_far_a_long_prompt_is(start: Start, background: bool) -> None:
    server = await start(hold_seconds=0.0, keepalive_seconds=0.005)
    text = f"{background} " + "cat " * 1500
    asked = {"input": text, "stream": True, "background": background, "store": background}
    answer = await ask(server, **asked)
    blocks = answer.content.decode().split("\n\n")[:-1]
    found = [json.loads(block.split("\ndata: ")[1]) for block in blocks]
    told = [each["prefill"] for each in found if "prefill" in each]
    done = [each["completed"] for each in told]
    assert done == sorted(done) and 0 < done[-1] < told[-1]["total"]
    assert {each["total"] for each in told} == {found[-1]["response"]["usage"]["input_tokens"]}


async def test_a_stream_says_that_reasoning_was_ended(server: HttpServer) -> None:
    asked = {"input": "script think;", "max_reasoning_tokens": 1, "stream": True}
    *_, last = events(await ask(server, **asked))
    [told] = last["response"]["warnings"]
    assert last["type"] == "response.completed" and "max_reasoning_tokens" in told


@pytest.mark.parametrize(
    ("syntax", "definition"),
    [
        (
            "lark",
            'start: WORD "-" N LF?\nWORD: "ja" | "nein"\nN: /[0-9]{3}/\n%import common.LF',
        ),
        ("regex", "(ja|nein)-[0-9]{3}\\n?"),
    ],
)
async def test_the_grammar_of_a_custom_tool_is_enforced(
    server: HttpServer, syntax: str, definition: str
) -> None:
    form = {"type": "grammar", "syntax": syntax, "definition": definition}
    tool = {**PATCH, "format": form}
    choice = {"type": "custom", "name": "apply_patch"}
    fixed = {"parallel_tool_calls": False, "max_output_tokens": 80, "temperature": 2}
    for seed in range(4):
        answer = await ask(
            server, input="Hi", tools=[tool, EXEC], tool_choice=choice, seed=seed, **fixed
        )
        assert "X-Budmlx-Warnings" not in answer.headers
        call = answer.json["output"][-1]
        assert call["type"] == "custom_tool_call"
        assert re.fullmatch(r"(ja|nein)-[0-9]{3}\n?", call["input"])


async def test_a_grammar_that_contains_itself_is_enforced_to_a_depth(server: HttpServer) -> None:
    definition = 'start: "(" start ")" | "[" start ("," start)* "]" | "x"'
    form = {"type": "grammar", "syntax": "lark", "definition": definition}
    choice = {"type": "custom", "name": "apply_patch"}
    fixed = {"parallel_tool_calls": False, "max_output_tokens": 200, "temperature": 2}
    inputs = set()
    for seed in range(4):
        answer = await ask(
            server,
            input="Hi",
            tools=[{**PATCH, "format": form}],
            tool_choice=choice,
            seed=seed,
            **fixed,
        )
        assert answer.status == 200
        assert "rules within each other" in answer.headers["X-Budmlx-Warnings"]
        # The prompt has the grammar alone, not the long expression that it becomes.
        assert answer.json["usage"]["input_tokens"] < 500
        if answer.json["status"] == "completed":
            inputs.add(answer.json["output"][-1]["input"])
    assert inputs
    for text in inputs:
        shorter = ""
        while shorter != text:
            shorter, text = text, re.sub(r"\(x\)|\[x(,x)*\]", "x", text)
        assert text == "x"


async def test_a_grammar_that_cannot_be_enforced_is_told(server: HttpServer) -> None:
    form = {"type": "grammar", "syntax": "lark", "definition": 'start: "(" start ")"'}
    answer = await ask(server, input="script patch;", tools=[{**PATCH, "format": form}])
    assert "`tools[0].format` is not enforced" in answer.headers["X-Budmlx-Warnings"]
    assert answer.json["output"][0]["type"] == "custom_tool_call"
    missing = [{**PATCH, "format": {"type": "grammar", "syntax": "lark"}}]
    check_error(
        await ask(server, input="Hi", tools=missing), 400, param="tools[0].format.definition"
    )


async def test_calls_of_a_namespace_go_on(server: HttpServer) -> None:
    asked = {"role": "user", "content": "script agent;"}
    made = (await ask(server, input=[asked], tools=[AGENTS, EXEC])).json
    [call] = made["output"]
    assert (call["name"], call["namespace"]) == ("spawn_agent", "multi_agent_v1")
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "yes"}
    after = (await ask(server, input=[asked, call, output], tools=[AGENTS, EXEC])).json
    assert after["output"][0]["content"][0]["text"] == "It is done."


async def test_two_tools_of_one_name_in_two_namespaces(server: HttpServer) -> None:
    [inner] = AGENTS["tools"]
    closed = {"type": "object", "properties": {}, "additionalProperties": False}
    inner = {**inner, "parameters": closed}  # type: ignore[dict-item]
    own = {**inner, "description": "Another one."}
    choice = {"type": "function", "name": "spawn_agent", "namespace": "multi_agent_v1"}
    tools = [own, {**AGENTS, "tools": [inner]}]
    one = {"tool_choice": choice, "parallel_tool_calls": False, "max_output_tokens": 80}
    made = await ask(server, input="Hi", tools=tools, **one)
    call = made.json["output"][-1]
    assert (call["name"], call["namespace"]) == ("spawn_agent", "multi_agent_v1")


async def test_forty_turns_compute_what_is_new(server: HttpServer) -> None:
    history: list[Any] = []
    counted = computed = 0
    for turn in range(20):
        history.append({"role": "user", "content": f"script look; {turn} " + "words " * 20})
        for _ in range(2):
            made = (await ask(server, input=history, tools=[EXEC], store=False)).json
            usage = made["usage"]
            cached = usage["input_tokens_details"]["cached_tokens"]
            new = usage["input_tokens"] - counted
            assert usage["input_tokens"] - cached <= new + 64, turn
            computed += usage["input_tokens"] - cached
            counted = usage["input_tokens"]
            history += made["output"]
            if made["output"][-1]["type"] == "function_call":
                call = made["output"][-1]["call_id"]
                history.append(
                    {"type": "function_call_output", "call_id": call, "output": "files " * 30}
                )
    assert computed <= counted + 80 * 64
