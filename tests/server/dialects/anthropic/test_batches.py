"""Batches of messages over HTTP; what the SDK sees of them is in `tests/clients`."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from budmlx.server.app import HttpServer
from budmlx.server.batches import record
from tests.server.conftest import Start

BATCHES = "/v1/messages/batches"


def asked(name: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"Hi {name}"}]
    params = {"model": "demo", "max_tokens": 4, "temperature": 0, "messages": messages}
    return {"custom_id": name, "params": {**params, **fields}}


async def post(client: aiohttp.ClientSession, path: str, body: Any = None) -> tuple[int, Any]:
    async with client.post(path, json=body) as response:
        return response.status, await response.json()


async def get(client: aiohttp.ClientSession, path: str) -> tuple[int, Any]:
    async with client.get(path) as response:
        return response.status, await response.json()


async def begun(client: aiohttp.ClientSession, *requests: dict[str, Any]) -> dict[str, Any]:
    status, batch = await post(client, BATCHES, {"requests": requests})
    assert status == 200, batch
    return batch


async def ended(client: aiohttp.ClientSession, batch: dict[str, Any]) -> dict[str, Any]:
    while batch["processing_status"] != "ended":
        assert sum(batch["request_counts"].values()) == batch["request_counts"]["processing"] + sum(
            batch["request_counts"][name] for name in ("succeeded", "errored")
        )
        await asyncio.sleep(0.02)
        _, batch = await get(client, f"{BATCHES}/{batch['id']}")
    return batch


async def results(client: aiohttp.ClientSession, batch: dict[str, Any]) -> dict[str, Any]:
    async with client.get(batch["results_url"]) as response:
        assert (response.status, response.content_type) == (200, "application/x-jsonl")
        lines = [json.loads(line) for line in (await response.text()).splitlines()]
    found = {line["custom_id"]: line["result"] for line in lines}
    assert len(found) == len(lines)
    return found


async def test_replies_are_those_of_messages(client: aiohttp.ClientSession) -> None:
    wrong = asked("d", max_tokens=0)
    requests = [asked("a"), asked("b", nonsense=1), asked("c", stream=True), wrong]
    batch = await begun(client, *requests)
    assert sum(batch["request_counts"].values()) == 4
    batch = await ended(client, batch)
    assert batch["request_counts"] == {
        **dict.fromkeys(("processing", "canceled", "expired"), 0),
        "succeeded": 2,
        "errored": 2,
    }
    found = await results(client, batch)
    _, same = await post(client, "/v1/messages", requests[0]["params"])
    message = found["a"]["message"]
    assert (message["content"], message["usage"]) == (same["content"], same["usage"])
    assert found["a"]["type"] == "succeeded" and "warnings" not in found["a"]
    assert "nonsense" in found["b"]["warnings"][0]
    assert found["c"]["error"]["error"]["message"].startswith("stream: ")
    assert found["d"]["type"] == found["d"]["error"]["type"].replace("error", "errored")
    status, alone = await post(client, "/v1/messages", wrong["params"])
    assert status == 400 and found["d"]["error"]["error"] == alone["error"]


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({}, "requests: "),
        ({"requests": []}, "requests: "),
        ({"requests": [{"custom_id": "a"}]}, "requests.0.params: "),
        ({"requests": [asked("a"), {**asked("b"), "params": 1}]}, "requests.1.params: "),
        ({"requests": [asked("a"), asked("")]}, "requests.1.custom_id: "),
        ({"requests": [asked("a"), asked("b"), asked("a")]}, "requests.2.custom_id: "),
        ({"requests": [{**asked("a"), "more": 1}]}, "requests.0.more: "),
        ({"requests": [asked("a")], "more": 1}, "more: "),
    ],
)
async def test_what_is_no_batch_is_refused_as_a_whole(
    client: aiohttp.ClientSession, body: Any, place: str
) -> None:
    status, reply = await post(client, BATCHES, body)
    assert status == 400 and reply["error"]["message"].startswith(place), reply
    assert (await get(client, BATCHES))[1]["data"] == []
    assert (await get(client, "/v1/files"))[1]["data"] == []


async def test_a_batch_takes_its_files_with_it(client: aiohttp.ClientSession) -> None:
    batch = await ended(client, await begun(client, asked("a"), asked("b", max_tokens=0)))
    assert len((await get(client, "/v1/files"))[1]["data"]) == 3
    async with client.delete(f"{BATCHES}/{batch['id']}") as response:
        assert await response.json() == {"id": batch["id"], "type": "message_batch_deleted"}
    assert (await get(client, "/v1/files"))[1]["data"] == []
    for path in (f"{BATCHES}/{batch['id']}", batch["results_url"]):
        status, reply = await get(client, path)
        assert (status, reply["error"]["type"]) == (404, "not_found_error")


async def test_results_before_the_end_and_batches_of_others(start: Start) -> None:
    server = await start(api_keys=("one", "two"), batch_lines=1)
    long = [asked(str(n), max_tokens=400, ignore_eos=True) for n in range(20)]
    async with (
        aiohttp.ClientSession(server.url, headers={"X-Api-Key": "one"}) as first,
        aiohttp.ClientSession(server.url, headers={"X-Api-Key": "two"}) as second,
    ):
        batch = await begun(first, *long)
        path = f"{BATCHES}/{batch['id']}"
        assert (await get(first, f"{path}/results"))[0] == 404
        for each in (path, f"{path}/results"):
            assert (await get(second, each))[0] == 404
        assert (await post(second, f"{path}/cancel"))[0] == 404
        assert (await get(second, BATCHES))[1]["data"] == []
        _, batch = await post(first, f"{path}/cancel")
        batch = await ended(first, batch)
        assert batch["request_counts"]["canceled"] >= 18 and batch["cancel_initiated_at"]
        assert (await results(first, batch))["19"] == {"type": "canceled"}


async def test_what_was_not_answered_in_time_expired(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "SECONDS", 1)
    server = await start(batch_lines=1)
    long = [asked(str(n), max_tokens=400, ignore_eos=True) for n in range(20)]
    async with aiohttp.ClientSession(server.url) as client:
        batch = await ended(client, await begun(client, *long))
        assert batch["request_counts"]["expired"]
        assert (await results(client, batch))["19"] == {"type": "expired"}


async def test_files_that_ask_for_messages_are_batches_of_messages(server: HttpServer) -> None:
    line = {"custom_id": "a", "method": "POST", "url": "/v1/messages", "body": asked("a")["params"]}
    form = aiohttp.FormData({"purpose": "batch"})
    form.add_field("file", json.dumps(line).encode(), filename="x")
    async with aiohttp.ClientSession(server.url) as client:
        async with client.post("/v1/files", data=form) as response:
            file = await response.json()
        chosen = {"input_file_id": file["id"], "completion_window": "24h"}
        _, batch = await post(client, "/v1/batches", {**chosen, "endpoint": "/v1/messages"})
        _, shown = await get(client, f"{BATCHES}/{batch['id']}")
        assert (await results(client, await ended(client, shown)))["a"]["type"] == "succeeded"
        await client.delete(f"{BATCHES}/{batch['id']}")
        assert [each["id"] for each in (await get(client, "/v1/files"))[1]["data"]] == [file["id"]]
