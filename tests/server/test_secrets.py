"""A key and a text that are planted, and then looked for in all that others may see."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import psutil
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.models import tiny_model_dir

KEY = "planted-key-1c7e0b5fd2"
WRONG = "planted-wrong-9a3344efc0"
TEXT = "planted text 77b0c1"


class Collector(BaseHTTPRequestHandler):
    """Takes spans."""

    spans: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        """Keep what was sent, as text."""
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        self.spans.append(str(ExportTraceServiceRequest.FromString(sent)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Nothing."""


def ask(url: str, body: object = None, key: str = KEY) -> tuple[int, str]:
    """Status and body of a reply; all of it, if it streams."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers)) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def chat(**more: object) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": TEXT}], "max_tokens": 4, **more}


def running(url: str) -> bool:
    """Whether a row runs."""
    return re.search(r"^budmlx_rows_running\S* [1-9]", ask(f"{url}/metrics")[1], re.M) is not None


def crash(server: psutil.Process, url: str, name: str) -> None:
    """Show the stacks while a request runs, then let the core die of it, as far as one can tell."""
    more = chat(model=name, max_tokens=1500, min_tokens=1500)
    request = threading.Thread(target=ask, args=(f"{url}/v1/chat/completions", more))
    request.start()
    while request.is_alive() and not running(url):
        time.sleep(0.05)
    (core,) = server.children()
    for process in (server, core):
        process.send_signal(signal.SIGUSR1)
    time.sleep(0.2)
    core.send_signal(signal.SIGABRT)
    request.join()


def test_keys_and_prompts_are_nowhere(tmp_path: Path) -> None:  # LIMITS 33
    collector = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    keys, log = tmp_path / "keys", tmp_path / "log"
    keys.write_text(f"{KEY}\n")
    keys.chmod(0o600)
    traces = f"http://127.0.0.1:{collector.server_port}/v1/traces"
    options = ["--port", "0", "--api-key-file", str(keys), "--otlp-traces-endpoint", traces]
    command = [sys.executable, "-m", "budmlx", "serve", str(tiny_model_dir()), *options]
    with log.open("w") as target:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=target, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = re.findall(r"http://127\.0\.0\.1:\d+", line)[0]
        server = psutil.Process(process.pid)
        name = json.loads(ask(f"{url}/v1/models")[1])["data"][0]["id"]
        posted = f"{url}/v1/chat/completions"
        assert ask(posted, chat(model=name))[0] == 200
        assert ask(posted, chat(model=name, stream=True))[0] == 200
        refused = [
            ask(posted, chat(), WRONG),
            ask(posted, chat(temperature=99)),
            ask(posted, chat(tools=[TEXT])),
            ask(f"{url}/nowhere?key={KEY}"),
            ask(f"{url}/v1/models/unknown", key=WRONG),
        ]
        assert [status for status, _ in refused] == [401, 400, 400, 404, 401]
        crash(server, url, name)
        metrics = ask(f"{url}/metrics")[1]
        arguments = [each.cmdline() for each in (server, *server.children(recursive=True))]
    finally:
        process.terminate()
        rest = process.communicate()[0]
        collector.shutdown()
    logged = log.read_text()
    # Each of them is what it should be.
    assert "budmlx_engine_restarts_total" in metrics and Collector.spans
    assert "Current thread" in logged and logged.count("/v1/chat/completions") >= 4
    seen = {
        "log": logged,
        "output": line + rest,
        "arguments": str(arguments),
        "metrics": metrics,
        "traces": "".join(Collector.spans),
        "errors": str(refused),
    }
    found = [
        (where, secret)
        for where, text in seen.items()
        for secret in (KEY, WRONG, TEXT)
        if secret in text
    ]
    assert not found
