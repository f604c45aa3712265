"""Writes the directory of files, with batches, and the file of API keys."""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
from contextlib import closing
from datetime import UTC, datetime

import msgspec

from budmlx.config.key_file import add_record
from budmlx.config.keys import ApiKey, digest_of
from budmlx.engine.store.batches import BatchStore
from budmlx.engine.store.files import INDEX, LOCK, FileStore, StoredFile
from budmlx.engine.store.store import Limits
from budmlx.server.batches.record import Batch, RequestCounts
from tests.recorded.stores import FILES, KEYS

CHAT = "/v1/chat/completions"
CREATED = 4_000_000_000
"""In 2096, so that nothing is too old yet."""
LINES = [
    {
        "custom_id": f"id {number}",
        "method": "POST",
        "url": CHAT,
        "body": {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2},
    }
    for number in range(2)
]
ANSWERED = {"id": "batch_req_1", "custom_id": "id 0", "response": None, "error": None}
OVER = Batch(
    id="batch_over",
    endpoint=CHAT,
    input_file_id="file-input",
    completion_window="24h",
    status="completed",
    created_at=CREATED,
    expires_at=CREATED + 86_400,
    output_file_id="file-over-output",
    in_progress_at=CREATED,
    finalizing_at=CREATED,
    completed_at=CREATED,
    request_counts=RequestCounts(1, 1, 0),
    metadata={"a": "b"},
)
HALF = Batch(
    id="batch_half",
    endpoint=CHAT,
    input_file_id="file-input",
    completion_window="24h",
    status="in_progress",
    created_at=CREATED,
    expires_at=CREATED + 86_400,
    in_progress_at=CREATED,
    request_counts=RequestCounts(2, 0, 0),
)
ALICE = ApiKey("alice", digest_of("alice-key").hex(), admin=True)
BOB = ApiKey(
    "bob@example.com",
    digest_of("bob-key").hex(),
    rpm=5,
    tokens_per_day=1000,
    models=("demo", "org/name"),
    expires=datetime(2099, 12, 31, 23, 59, tzinfo=UTC),
    background=True,
)


def write() -> None:
    """Write both anew."""
    shutil.rmtree(FILES, ignore_errors=True)
    files = FileStore(FILES, Limits(10, 10**6, math.inf), 10**6)
    lines = [json.dumps(each).encode() for each in LINES]
    written = StoredFile("file-input", "", "lines.jsonl", "batch", 0, CREATED, None)
    files.write(written, lines)
    done = StoredFile(
        "file-over-output", "", "out.jsonl", "batch_output", 0, CREATED, CREATED + 10**7
    )
    files.write(done, [json.dumps(ANSWERED).encode()])
    batches = BatchStore(files.store)
    for batch in (OVER, HALF):
        batches.put("", batch.id, msgspec.json.encode(batch), over=batch.over)
    batches.put_line(HALF.id, 0, json.dumps(ANSWERED).encode(), failed=False)
    files.close()
    with closing(sqlite3.connect(FILES / INDEX)) as database:
        database.execute("VACUUM")
    (FILES / LOCK).unlink()
    KEYS.write_text("# Keys of the team.\n\na-whole-key\n", "utf-8")
    add_record(KEYS, ALICE)
    add_record(KEYS, BOB)
    KEYS.with_name(".keys.lock").unlink()
