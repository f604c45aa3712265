"""A stand-in for the model hub on loopback: what huggingface_hub calls, and faults on demand."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

Files = Mapping[str, bytes]
TOKEN = "Bearer hf_secret"
"""Opens gated repositories."""

API = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)/(?P<what>revision|tree)/(?P<revision>[^/]+)/?")
RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


@dataclass(frozen=True)
class Seen:
    """One request that arrived: its method, its path and its Range header."""

    method: str
    path: str
    range: str | None


@dataclass
class Hub:
    """Repositories and what to do wrong when they are fetched.

    repositories: repository -> revision -> path -> content.
    drop: paths whose first download loses the connection half way.
    stall: paths whose download stops half way until `resume` is set; `stalled` tells.
    gated: repositories whose files need the token, and what is told instead: 401, or 403.
    claimed: sizes that are told of files in place of their own.
    """

    repositories: dict[str, dict[str, Files]]
    drop: set[str] = field(default_factory=set)
    stall: set[str] = field(default_factory=set)
    gated: dict[str, int] = field(default_factory=dict)
    claimed: dict[str, int] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    stalled: threading.Event = field(default_factory=threading.Event)
    resume: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        hub = self

        class Handler(HubHandler):
            pass

        Handler.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.resume.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def netloc(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    def environment(self, home: Path, **extra: str) -> dict[str, str]:
        """Variables for a process that shall see this hub and no other, and no user's files."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "BUDMLX_"))}
        own = {
            "HF_ENDPOINT": f"http://{self.netloc}",
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "PYTHONPATH": str(Path(__file__).parent.parent),
        }
        return {**kept, **own, **extra}

    def downloads(self, file: str) -> list[Seen]:
        """The GET requests for a file, in order."""
        return [s for s in self.seen if s.method == "GET" and s.path.endswith(f"/{file}")]


class HubHandler(BaseHTTPRequestHandler):
    """Answers one connection."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.seen.append(Seen(self.command, path, self.headers.get("Range")))
        match = API.fullmatch(path) or RESOLVE.fullmatch(path)
        if match is None:
            return self._error("EntryNotFound")
        revisions = self.hub.repositories.get(match["repo"])
        if revisions is None:
            return self._error("RepoNotFound")
        wanted = match["revision"]
        files = next((f for r, f in revisions.items() if wanted in (r, commit(f))), None)
        if files is None:
            return self._error("RevisionNotFound")
        if "file" in match.groupdict():
            if match["repo"] in self.hub.gated and self.headers.get("Authorization") != TOKEN:
                return self._error("GatedRepo", self.hub.gated[match["repo"]])
            return self._file(match["file"], files)
        told = info(match["repo"], files) if match["what"] == "revision" else self._tree(files)
        self._json(told)

    def _tree(self, files: Files) -> list[dict[str, object]]:
        sizes = {name: len(content) for name, content in files.items()} | self.hub.claimed
        told: list[dict[str, object]] = []
        for path, content in files.items():
            entry = {"type": "file", "path": path, "size": sizes[path], "oid": digest(content)}
            if path.endswith(".safetensors"):
                large = {"oid": digest(content), "size": sizes[path], "pointerSize": 100}
                entry |= {"oid": commit({path: content}), "lfs": large}
            told.append(entry)
        return told

    def _error(self, code: str, status: int = 404) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _json(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _file(self, name: str, files: Files) -> None:
        if name not in files:
            return self._error("EntryNotFound")
        content = files[name]
        span = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(span[1]) if span else 0
        self.send_response(206 if span else 200)
        if span:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{digest(content)}"')
        self.send_header("X-Repo-Commit", commit(files))
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.command == "GET":
            self._body(name, content[start:])

    def _body(self, name: str, body: bytes) -> None:
        half = len(body) // 2
        self.wfile.write(body[:half])
        if name in self.hub.drop:
            self.hub.drop.remove(name)
            self.close_connection = True
            return
        if name in self.hub.stall:
            self.hub.stalled.set()
            self.hub.resume.wait()
        try:
            self.wfile.write(body[half:])
        except ConnectionError:  # the client was killed meanwhile
            self.close_connection = True


def digest(content: bytes) -> str:
    """What a blob is called."""
    return hashlib.sha256(content).hexdigest()


def commit(files: Files) -> str:
    """A commit id that depends on the content."""
    digest = hashlib.sha1()
    for path, content in sorted(files.items()):
        digest.update(path.encode() + b"\0" + content)
    return digest.hexdigest()


def info(repo: str, files: Files) -> dict[str, object]:
    siblings = [{"rfilename": path} for path in files]
    return {"id": repo, "modelId": repo, "sha": commit(files), "siblings": siblings}
