"""Recorded requests, the servers that they are for, and what those answer now."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import SecretStr

from budmlx import Engine
from budmlx.config import Config
from tests.models import tiny_model_dir
from tests.recorded.blanks import blanked, blanked_headers, joined
from tests.server.conftest import ALIASES, HttpServer, Models
from tests.server.tools import Answer, exchange

HERE = Path(__file__).parent
REQUESTS = HERE / "requests.jsonl"
REPLIES = HERE / "replies.jsonl"

# Nothing here may depend on how fast the machine is.
PATIENT: dict[str, Any] = {"hold_seconds": 100, "keepalive_seconds": 100, "drain_seconds": 0}
SERVERS: dict[str, dict[str, Any]] = {
    "tiny": {},
    "keys": {"api_keys": (SecretStr("first-key"), SecretStr("second-key"))},
    "strict": {"strict": True, "incremental_tool_calls": True, "max_body": "20KiB"},
    "limited": {"requests_per_minute": 2},
    "random": {},
}
"""Settings by the name in `to` of a request."""

HOSTS = ("thread", "process")


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@contextmanager
def named_model(name: str) -> Iterator[Path]:
    """The random model in a directory whose name, which errors quote, is always the same."""
    with TemporaryDirectory() as folder:
        yield Path(shutil.copytree(tiny_model_dir(scale=2.0), Path(folder) / name))


@contextmanager
def engines(host: str) -> Iterator[dict[str, Engine]]:
    """The engines of the servers: the shipped model without reuse, a random one with it."""
    options: dict[str, Any] = {"engine_host": host, "watchdog_seconds": 100}
    with (
        named_model("random-llama") as path,
        Engine.load(prefix_cache="0", **options) as tiny,
        Engine.load(path, prefix_cache="64MiB", **options) as random,
    ):
        yield dict.fromkeys(SERVERS, tiny) | {"random": random}


@asynccontextmanager
async def servers(host: str) -> AsyncIterator[dict[str, HttpServer]]:
    """Servers with that host, by name."""
    async with AsyncExitStack() as stack:
        found = {}
        for name, engine in stack.enter_context(engines(host)).items():
            config = Config(port=0, **PATIENT, **SERVERS[name])
            found[name] = await HttpServer.start(Models.of(engine, ALIASES), config)
            stack.push_async_callback(found[name].drain)
        yield found


async def replies(host: str) -> list[dict[str, Any]]:
    """What servers with that host answer, one request after the other."""
    async with servers(host) as running:
        return [
            _reply(asked["name"], await exchange(running[asked["to"]], _raw(asked)))
            for asked in lines_of(REQUESTS)
        ]


def _raw(asked: dict[str, Any]) -> bytes:
    """A request as bytes. `body` is sent as JSON, `raw` as it is, a byte per character."""
    data = asked["raw"].encode("latin-1") if "raw" in asked else b""
    if "body" in asked:
        data = json.dumps(asked["body"]).encode()
    headers = {"Host": "localhost", "Connection": "close"}
    if asked["method"] == "POST":
        headers |= {"Content-Type": "application/json", "Content-Length": str(len(data))}
    headers |= asked.get("headers", {})
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if value is not None)
    return f"{asked['method']} {asked['path']} HTTP/1.1\r\n{lines}\r\n".encode() + data


def _reply(name: str, answer: Answer) -> dict[str, Any]:
    text = answer.content.decode()
    if answer.headers.get_content_type() == "text/event-stream":
        text = joined(text)
    return {
        "name": name,
        "status": answer.status,
        "headers": blanked_headers(dict(answer.headers)),
        "body": blanked(text),
    }
