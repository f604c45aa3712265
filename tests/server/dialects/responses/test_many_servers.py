"""Several servers behind one address: whose ids are whose, and reasoning that all understand."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import openai

from tests.server.conftest import Start
from tests.server.dialects.responses.tools import ask, events
from tests.server.tools import exchange, get

TAGGED = re.compile(r"(resp|msg|rs|fc|file|batch)[_-][0-9a-f]{32}_b")


async def test_ids_end_with_the_tag_of_the_server(start: Start) -> None:
    server = await start(server_tag="b")
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as sdk:
        response = await sdk.responses.create(model="m", input="script look;")
        items = await sdk.responses.input_items.list(response.id)
        lines = json.dumps({"custom_id": "1"}).encode()
        file = await sdk.files.create(file=("lines.jsonl", lines), purpose="batch")
        batch = await sdk.batches.create(
            input_file_id=file.id, endpoint="/v1/responses", completion_window="24h"
        )
        assert (await sdk.files.retrieve(file.id)).id == file.id
        assert (await sdk.batches.retrieve(batch.id)).id == batch.id
        assert (await sdk.responses.retrieve(response.id)).id == response.id
    ids = [response.id, file.id, batch.id, items.data[0].id, *(each.id for each in response.output)]
    assert len(ids) >= 6 and all(TAGGED.fullmatch(str(each)) for each in ids), ids
    told = await ask(server, input="script look;", stream=True)
    streamed = {event["item_id"] for event in events(told) if "item_id" in event}
    assert streamed and all(map(TAGGED.fullmatch, streamed))


async def test_servers_of_one_store_know_the_responses_of_both(
    start: Start, tmp_path: Path
) -> None:  # LIMITS 141
    store = str(tmp_path / "store")
    one, other = await start(store=store), await start(store=store)
    made = await asyncio.gather(
        *(ask(server, input=f"script say {n};") for n in range(12) for server in (one, other))
    )
    ids = [answer.json["id"] for answer in made]
    for server in (one, other):
        for id in ids:
            raw = get(f"/v1/responses/{id}")
            assert (await exchange(server, raw)).json["id"] == id
    more = await ask(other, input="script say on;", previous_response_id=ids[0])
    assert more.json["previous_response_id"] == ids[0]
    gone = get(f"/v1/responses/{ids[0]}").replace(b"GET", b"DELETE", 1)
    assert (await exchange(one, gone)).status == 200
    assert (await ask(other, input="x", previous_response_id=ids[0])).status in (400, 404)


async def test_reasoning_of_another_server_is_understood(start: Start, tmp_path: Path) -> None:
    key = tmp_path / "seal.key"
    one, other = await start(seal_key=key), await start(seal_key=key)
    stranger = await start(seal_key=tmp_path / "other.key")
    asked = {"role": "user", "content": "script think;"}
    thought, said = (await ask(one, input=[asked])).json["output"]
    # Without its text, so that only the seal can tell it.
    again = [
        asked,
        {**thought, "summary": [], "content": []},
        said,
        {"role": "user", "content": "?"},
    ]
    tokens = [
        (await ask(server, input=again)).json["usage"]["input_tokens"]
        for server in (one, other, stranger)
    ]
    assert tokens[0] == tokens[1] > tokens[2]
