"""A server process that serves several models with all caches, stores and plugins on."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import psutil

from budmlx.config.key_file import add_record, remove_record
from budmlx.config.keys import ApiKey, digest_of
from tests.adapters import write_mlx
from tests.models import tiny_model_dir
from tests.vision_plugin import write_vision_model

ROOT = Path(__file__).parents[2]
ADMIN = "planted-admin-5c1f0de2a7"
KEY = "planted-key-8e21bb04c3"
TEXT, EYES, VECTORS, OTHER = "org/text", "org/eyes", "org/vectors", "org/other"

CONFIG = """\
host = "127.0.0.1"
port = 0
models_dir = ["{library}"]
preload = {preload}
api_key_file = "{directory}/keys"
kv_store = "{directory}/kv"
kv_store_size = "24MiB"
store = "{directory}/store.sqlite"
files_dir = "{directory}/files"
cache_size = "1MiB"
log_file = "{directory}/log"
drain_seconds = 5
max_queue = {queue}
plugin = ["tests.vision_plugin"]
warmup = "off"
prefix_cache = "8MiB"
max_rows = {rows}
memory_limit = "1GiB"
watchdog_seconds = 60
{more}
[models."org/text"]
cache = "auto"
speculation = "auto"
adapter = ["a={directory}/adapters/a", "b={directory}/adapters/b"]

[models."org/vectors"]
pooling = "mean"
"""


class Collector(BaseHTTPRequestHandler):
    """Takes spans, and keeps the last of them as they came."""

    spans: ClassVar[list[bytes]] = []

    def do_POST(self) -> None:
        self.spans.append(self.rfile.read(int(self.headers["Content-Length"])))
        del self.spans[:-500]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Reply:
    """A whole reply."""

    status: int
    kind: str
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)


@dataclass(frozen=True)
class Figures:
    """What a server and its cores hold. rss: MiB of each process, that of the server first."""

    rss: tuple[float, ...]
    threads: int
    files: int
    temporary: tuple[str, ...]


class World:
    """A server in a process of its own, with directories that only it uses."""

    def __init__(
        self,
        directory: Path,
        *,
        preload: Sequence[str] = (TEXT, EYES, VECTORS),
        traces: bool = False,
        rows: int = 24,
        queue: int = 64,
    ):
        self.directory = directory
        self._settings = {"preload": json.dumps(preload), "rows": rows, "queue": queue}
        self._library = directory / "models" / "org"
        for seed, name in enumerate(("text", "vectors", "other")):
            shutil.copytree(tiny_model_dir(scale=2.0, seed=seed), self._library / name)
        write_vision_model(self._library / "eyes")
        for seed, name in enumerate("ab"):
            write_mlx(directory / "adapters" / name, self._library / "text", rank=4, seed=seed)
        (directory / "tmp").mkdir()
        (directory / "keys").write_text(f"{KEY}\n")
        (directory / "keys").chmod(0o600)
        self._more = ""
        self._collector: ThreadingHTTPServer | None = None
        if traces:
            self._collector = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
            threading.Thread(target=self._collector.serve_forever, daemon=True).start()
            port = self._collector.server_port
            self._more = f'otlp_traces_endpoint = "http://127.0.0.1:{port}/v1/traces"\n'
        self.configure()
        self.output = ""
        self._start()

    def configure(self, more: str = "") -> None:
        """Write the configuration, with further settings."""
        text = CONFIG.format(
            library=self._library.parent,
            directory=self.directory,
            **self._settings,
            more=self._more + more,
        )
        (self.directory / "config.toml").write_text(text)

    def _start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if "BUDMLX_" not in name}
        environment |= {
            "BUDMLX_CONFIG": str(self.directory / "config.toml"),
            "BUDMLX_ADMIN_KEY": ADMIN,
            "BUDMLX_DEVICE": "cpu",
            "TMPDIR": str(self.directory / "tmp"),
            "XDG_STATE_HOME": str(self.directory / "state"),
            "PYTHONPATH": str(ROOT),
        }
        with (self.directory / "errors").open("a") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "budmlx", "serve"],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        assert found is not None, (self.directory / "errors").read_text()
        self.output += line
        self.port = int(found[1])
        self.server = psutil.Process(self.process.pid)

    def stop(self) -> int:
        """Send SIGTERM, and wait; the exit status."""
        self.process.terminate()
        self.output += self.process.communicate(timeout=60)[0]
        return self.process.returncode

    def close(self) -> None:
        """End everything, whatever is left."""
        if self.process.poll() is None:
            for process in (*self.server.children(recursive=True), self.server):
                process.kill()
            self.process.communicate()
        if self._collector is not None:
            self._collector.shutdown()
            self._collector.server_close()

    # -- requests

    def send(
        self, path: str, body: Any = None, key: str = KEY, method: str = "", **headers: str
    ) -> http.client.HTTPConnection:
        """A connection on which a request was sent. body: JSON, or bytes as they are."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        given = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request(method or ("GET" if body is None else "POST"), path, data, given)
        return connection

    def ask(self, path: str, body: Any = None, key: str = KEY, **options: str) -> Reply:
        """A whole reply. options: see `send`."""
        connection = self.send(path, body, key, **options)
        try:
            return whole(connection.getresponse())
        finally:
            connection.close()

    def admin(self, path: str, body: Any = None, **options: str) -> Reply:
        """A whole reply to an admin."""
        return self.ask(path, body, ADMIN, **options)

    # -- keys

    def add_key(self, name: str, key: str) -> None:
        """Let a key in. The server reads the file when it has changed."""
        add_record(self.directory / "keys", ApiKey(name, digest_of(key).hex()))

    def revoke(self, name: str) -> None:
        """Take a key away."""
        remove_record(self.directory / "keys", name)

    # -- what it holds

    def cores(self) -> list[psutil.Process]:
        """The core processes."""
        return self.server.children(recursive=True)

    def kill_core(self, number: int) -> int:
        """Kill a core, if one is there; its process id."""
        cores = sorted(self.cores(), key=lambda process: process.create_time())
        if not cores:
            return 0
        cores[number % len(cores)].send_signal(signal.SIGKILL)
        return int(cores[number % len(cores)].pid)

    def watch(self) -> Any:
        """What runs."""
        return self.admin("/v1/watch").json

    def ready(self) -> bool:
        """Whether the server says that it makes progress."""
        return self.ask("/ready").status == 200

    def metrics(self) -> Mapping[str, float]:
        """All numbers by their names, those of all labels together."""
        found: dict[str, float] = {}
        for line in self.ask("/metrics").content.decode().splitlines():
            if not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                name = name.partition("{")[0]
                found[name] = found.get(name, 0.0) + float(value)
        return found

    def figures(self) -> Figures:
        """What the processes hold now."""
        processes = [self.server, *self.cores()]
        return Figures(
            tuple(process.memory_info().rss / 2**20 for process in processes),
            self.server.num_threads(),
            self.server.num_fds(),
            tuple(sorted(str(path) for path in (self.directory / "tmp").rglob("*"))),
        )

    def at_rest(self, seconds: float = 60.0) -> None:
        """Wait until nothing runs or waits, no client is there, and it is ready again."""
        end = time.monotonic() + seconds
        while True:
            numbers = self.metrics()
            left = {
                name: numbers[name]
                for name in (
                    "budmlx_rows_running",
                    "budmlx_rows_waiting",
                    "budmlx_requests_in_flight",
                    "budmlx_batches_running",
                )
                if numbers.get(name)
            }
            connections = numbers["budmlx_connections"] - 1  # this one
            if not left and connections <= 0 and self.ready():
                return
            assert time.monotonic() < end, (left, connections, self.watch()["running"])
            time.sleep(0.1)


def whole(response: http.client.HTTPResponse) -> Reply:
    """All of a reply."""
    kind = (response.getheader("Content-Type") or "").partition(";")[0]
    return Reply(response.status, kind, response.read())
