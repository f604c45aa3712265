"""Responses that are stored: continued, asked for, listed, deleted, and made in the background."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import SecretStr

from budmlx.server.app import HttpServer
from tests.server.conftest import Start
from tests.server.dialects.responses.tools import DATA, EXEC, ask, events, normal
from tests.server.tools import Answer, check_error, exchange, get, until

REPLY = json.loads((DATA / "reply-responses.json").read_text("utf-8"))


async def send(server: HttpServer, method: str, path: str, **headers: str) -> Answer:
    raw = get(f"/v1/responses/{path}", **headers)
    return await exchange(server, raw.replace(b"GET", method.encode(), 1))


async def test_a_conversation_goes_on(sdk: openai.AsyncOpenAI) -> None:
    first = await sdk.responses.create(model="m", input="script look;", tools=[EXEC])  # type: ignore[list-item]
    call = first.output[-1]
    assert call.type == "function_call"
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "cat.txt"}
    second = await sdk.responses.create(
        model="m",
        input=[output],
        tools=[EXEC],
        previous_response_id=first.id,  # type: ignore[list-item]
    )
    assert second.output_text == "There is a cat."
    assert second.previous_response_id == first.id
    third = await sdk.responses.create(model="m", input="And?", previous_response_id=second.id)
    assert third.output_text == "That is all."
    assert second.usage and first.usage
    # The second turn computes what is new, and at most one block.
    new = second.usage.input_tokens - first.usage.input_tokens
    computed = second.usage.input_tokens - second.usage.input_tokens_details.cached_tokens
    assert computed <= new + 64


async def test_instructions_are_not_inherited(sdk: openai.AsyncOpenAI) -> None:
    first = await sdk.responses.create(model="m", input="Hi", instructions="Be brief. " * 50)
    after = await sdk.responses.create(model="m", input="Hi", previous_response_id=first.id)
    assert first.usage and after.usage
    assert after.usage.input_tokens < first.usage.input_tokens
    assert after.instructions is None


async def test_what_is_not_stored_is_not_found(server: HttpServer) -> None:
    unknown = await ask(server, input="Hi", previous_response_id="resp_none")
    check_error(unknown, 400, param="previous_response_id", code="previous_response_not_found")
    forgotten = (await ask(server, input="Hi", store=False)).json
    assert forgotten["store"] is False
    for method, path in (
        ("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items"),
    ):  # fmt: skip
        check_error(await send(server, method, forgotten["id"] + path), 404)
    reference = [{"type": "item_reference", "id": "msg_none"}]
    check_error(await ask(server, input=reference), 400, param="input[0].id")


async def test_a_response_and_its_input(server: HttpServer) -> None:
    made = (await ask(server, input="Hi", metadata={"a": "b"})).json
    assert (await send(server, "GET", made["id"])).json == made
    listed = (await send(server, "GET", f"{made['id']}/input_items")).json
    assert normal({**listed, "first_id": "msg_", "last_id": "msg_"}) == normal(
        json.loads(
            json.dumps(REPLY["input_items"]).replace('"hi"', '"Hi"').replace("msg_00", "msg_")
        )
    )
    deleted = await send(server, "DELETE", made["id"])
    assert deleted.json == {**REPLY["deleted"], "id": made["id"]}
    check_error(await send(server, "GET", made["id"]), 404)


async def test_what_clients_add_is_kept_as_it_is(server: HttpServer) -> None:
    item = {"role": "user", "content": "Hi", "number": 2**70}
    tool = {**EXEC, "parameters": {"type": "object", "maxProperties": 2**70}}
    made = (await ask(server, input=[item], tools=[tool])).json
    assert made["tools"] == [tool]
    [kept] = (await send(server, "GET", f"{made['id']}/input_items")).json["data"]
    assert kept["number"] == 2**70


async def test_pages_of_input(server: HttpServer) -> None:
    items = [{"role": "user", "content": str(n)} for n in range(5)]
    made = (await ask(server, input=items)).json

    async def page(query: str) -> tuple[list[str], Any]:
        found = (await send(server, "GET", f"{made['id']}/input_items?{query}")).json
        return [item["content"][0]["text"] for item in found["data"]], found

    texts, whole = await page("order=asc")
    assert texts == ["0", "1", "2", "3", "4"] and not whole["has_more"]
    assert (await page(""))[0] == texts[::-1]
    texts, first = await page("order=asc&limit=2")
    assert texts == ["0", "1"] and first["has_more"]
    texts, last = await page(f"order=asc&limit=3&after={first['last_id']}")
    assert texts == ["2", "3", "4"] and not last["has_more"]
    for query, param in (("limit=0", "limit"), ("limit=x", "limit"), ("order=x", "order")):
        wrong = await send(server, "GET", f"{made['id']}/input_items?{query}")
        check_error(wrong, 400, param=param)


async def test_items_are_referred_to(server: HttpServer) -> None:
    made = (await ask(server, input="script think;")).json
    thought, said = made["output"]
    [asked] = (await send(server, "GET", f"{made['id']}/input_items")).json["data"]
    references = [{"type": "item_reference", "id": item["id"]} for item in (asked, thought, said)]
    again = (await ask(server, input=[*references, {"role": "user", "content": "Or?"}])).json
    assert again["output"][-1]["content"][0]["text"] == "Or both."
    # What was referred to belongs to the response, also when what had it first is gone.
    listed = (await send(server, "GET", f"{again['id']}/input_items?order=asc")).json["data"]
    assert listed[:3] == [asked, thought, said]
    await send(server, "DELETE", made["id"])
    more = [*references, {"role": "user", "content": "script look;"}]
    third = (await ask(server, input=more)).json
    assert third["usage"]["input_tokens"] > 0
    fourth = await ask(server, input="And?", previous_response_id=third["id"])
    whole = [asked, thought, said, more[-1], *third["output"], {"role": "user", "content": "And?"}]
    same = await ask(server, input=whole)
    assert fourth.json["usage"]["input_tokens"] == same.json["usage"]["input_tokens"]


async def test_keys_see_their_own(start: Start) -> None:
    server = await start(api_keys=(SecretStr("one"), SecretStr("two")))
    url = f"http://127.0.0.1:{server.port}/v1"
    one, two = (openai.AsyncOpenAI(base_url=url, api_key=k, max_retries=0) for k in ("one", "two"))
    made = await one.responses.create(model="m", input="Hi")
    assert (await one.responses.retrieve(made.id)).id == made.id
    with pytest.raises(openai.NotFoundError):
        await two.responses.retrieve(made.id)
    with pytest.raises(openai.BadRequestError):
        await two.responses.create(model="m", input="Hi", previous_response_id=made.id)
    check_error(await send(server, "GET", made.id), 401)


async def test_a_file_keeps_them_over_a_restart(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "state" / "store.sqlite"
    first = await start(store=str(path))
    made = (await ask(first, input="script think;")).json
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await first.drain()
    second = await start(store=str(path))
    assert (await send(second, "GET", made["id"])).json == made
    after = (await ask(second, input="Or?", previous_response_id=made["id"])).json
    assert after["output"][-1]["content"][0]["text"] == "Or both."
    await second.drain()
    third = await start()
    check_error(await send(third, "GET", made["id"]), 404)


async def finished(server: HttpServer, id: str) -> Any:
    async with asyncio.timeout(30):
        while True:
            found = (await send(server, "GET", id)).json
            if found["status"] not in ("queued", "in_progress"):
                return found
            await asyncio.sleep(0.02)


async def test_a_response_in_the_background(server: HttpServer) -> None:
    made = (await ask(server, input="script think;", background=True)).json
    assert made["status"] == "queued" and made["background"]
    done = await finished(server, made["id"])
    assert done["status"] == "completed"
    assert done["output"][-1]["content"][0]["text"] == "A dog."
    check_error(await ask(server, input="Hi", background=True, store=False), 400)
    cancelled = await send(server, "POST", f"{made['id']}/cancel")
    assert cancelled.json == done
    other = (await ask(server, input="Hi")).json
    check_error(await send(server, "POST", f"{other['id']}/cancel"), 400)
    check_error(await send(server, "GET", f"{other['id']}?stream=true"), 400, param="stream")


async def test_warnings_that_come_late(server: HttpServer, start: Start) -> None:
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"cmd": "ec'}
    output = {"type": "function_call_output", "call_id": "c", "output": "It was cut."}
    asked: dict[str, Any] = {"input": [{"role": "user", "content": "Hi"}, call, output]}
    [told] = json.loads((await ask(server, **asked)).headers["X-Budmlx-Warnings"])
    assert told.startswith("input[1] is a JSON object that was cut off")
    made = (await ask(server, **asked, background=True)).json
    assert (await finished(server, made["id"]))["warnings"] == [told]
    # A stream whose header was sent before has it at its end, and never twice.
    streamed = await ask(await start(hold_seconds=0.0), **asked, stream=True)
    early = json.loads(streamed.headers.get("X-Budmlx-Warnings", "[]"))
    assert [*early, *events(streamed)[-1]["response"].get("warnings", ())] == [told]


async def test_a_stream_is_resumed(server: HttpServer) -> None:
    whole = events(await ask(server, input="script think;", background=True, stream=True))
    kinds = [event["type"] for event in whole]
    assert kinds[:3] == ["response.created", "response.queued", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    id = whole[0]["response"]["id"]
    for after in (0, 4, len(whole) - 2):
        answer = await send(server, "GET", f"{id}?stream=true&starting_after={after}")
        *blocks, _ = answer.content.decode().split("\n\n")
        found = [json.loads(block.split("\ndata: ")[1]) for block in blocks]
        assert found == whole[after + 1 :]
    check_error(await send(server, "GET", f"{id}?stream=true&starting_after=x"), 400)


LONG = {"input": "script long;", "background": True, "stream": True}


async def test_a_client_that_goes_leaves_the_response_running(server: HttpServer) -> None:
    sdk = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    stream: Any = await sdk.responses.create(model="m", **LONG)  # type: ignore[call-overload]
    seen = []
    async for event in stream:
        seen.append(event)
        if event.type == "response.output_text.delta":
            break
    await stream.close()
    id = seen[0].response.id
    rest: Any = await sdk.responses.retrieve(id, stream=True, starting_after=len(seen) - 1)
    seen += [event async for event in rest]
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    text = "".join(e.delta for e in seen if e.type == "response.output_text.delta")
    assert seen[-1].type == "response.completed"
    assert text == seen[-1].response.output_text == " ".join(map(str, range(300)))


async def test_a_response_is_cancelled(server: HttpServer) -> None:
    made = (await ask(server, input="Hi", background=True, ignore_eos=True)).json
    await until(lambda: server.in_flight.count == 1)
    followed = asyncio.create_task(send(server, "GET", f"{made['id']}?stream=true"))
    await asyncio.sleep(0.05)
    cancelled = (await send(server, "POST", f"{made['id']}/cancel")).json
    assert cancelled["status"] == "cancelled"
    assert events(await followed)[-1]["response"]["status"] == "cancelled"
    assert server.in_flight.count == 0
    assert (await finished(server, made["id"]))["status"] == "cancelled"


async def test_the_end_of_the_server_ends_it(start: Start, tmp_path: Path) -> None:
    path = str(tmp_path / "store.sqlite")
    server = await start(store=path)
    made = (await ask(server, input="Hi", background=True, ignore_eos=True)).json
    await until(lambda: server.in_flight.count == 1)
    await server.drain()
    found = (await send(await start(store=path), "GET", made["id"])).json
    assert found["status"] == "failed" and found["error"]["code"] == "server_error"


async def test_counts(server: HttpServer) -> None:
    made = (await ask(server, input="script think;", instructions="Be brief.")).json
    asked = {"instructions": "Be brief.", "input": "script think;"}
    counted = await ask(server, "/v1/responses/input_tokens", **asked)
    assert counted.json == {
        "object": "response.input_tokens",
        "input_tokens": made["usage"]["input_tokens"],
    }
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "script think;"},
    ]
    same = await ask(server, "/v1/chat/completions/input_tokens", messages=chat)
    assert same.json["input_tokens"] == made["usage"]["input_tokens"]
