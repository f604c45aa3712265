"""What batches of an API key may take: records, bytes of files, and places in the queue."""

from __future__ import annotations

import openai
import pytest

from budmlx.server.batches import runner
from tests.server.conftest import Start
from tests.server.test_batches import CHAT, begun, ended, jsonl, line, lines_of, sdk
from tests.server.tools import until


async def test_so_many_batches_are_kept(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    # LIMITS 132
    monkeypatch.setattr(runner, "MOST_KEPT", 2)
    client = sdk(await start())
    ids = [(await ended(client, await begun(client, jsonl([line(n)])))).id for n in range(4)]
    assert [each.id for each in (await client.batches.list()).data] == ids[:1:-1]


async def test_replies_beyond_the_limit_keep_from_further_batches(start: Start) -> None:
    # LIMITS 133
    client = sdk(await start(files_max_size=600))
    batch = await ended(client, await begun(client, jsonl([line(1)])))
    assert len(await lines_of(client, batch.output_file_id)) == 1
    again = {"input_file_id": batch.input_file_id, "completion_window": "24h"}
    with pytest.raises(openai.BadRequestError, match="600 bytes; delete some"):
        await client.batches.create(endpoint=CHAT, **again)
    await client.files.delete(batch.output_file_id)
    assert (await client.batches.create(endpoint=CHAT, **again)).status == "validating"


async def test_replies_are_bounded_and_every_line_has_one(start: Start) -> None:
    # LIMITS 133
    content = jsonl([line(n) for n in range(30)])
    client = sdk(await start(files_max_size=len(content) + 3000, batch_lines=2))
    batch = await ended(client, await begun(client, content))
    counts = batch.request_counts
    assert batch.status == "completed" and counts.completed + counts.failed == 30
    kept = await lines_of(client, batch.output_file_id)
    refused = await lines_of(client, batch.error_file_id)
    assert len(kept) == counts.completed >= 2 and kept.keys().isdisjoint(refused)
    for each in refused.values():
        assert each["response"]["body"]["error"]["code"] == "too_many_files"
    size = len((await client.files.content(batch.output_file_id)).content)
    assert size < 3000 + 2 * 1000, "two lines that ran were more than there was room for"


async def test_lines_take_no_places_from_their_key(start: Start) -> None:
    server = await start(max_rows=1, max_queue=0, batch_lines=4, api_keys=("one",))
    client = sdk(server, "one")
    batch = await begun(client, jsonl([line(n, max_tokens=60) for n in range(12)]))
    await until(lambda: len(server.in_flight.holders) == 4)
    for _ in range(3):
        await client.chat.completions.create(
            model="demo", messages=[{"role": "user", "content": "hi"}], max_tokens=2
        )
    batch = await ended(client, batch)
    assert batch.request_counts.completed == 12
