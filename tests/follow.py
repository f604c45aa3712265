"""The functions that one streamed chat runs, from the socket to the last byte:
`python -m tests.follow [--host thread|process]`.

It is the second request of a server with a tiny model, with temperature and top_p, without tools.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, Listener
from pathlib import Path

from budmlx import Engine
from budmlx.config import Config
from budmlx.engine.hosts.process import ProcessHost
from budmlx.engine.models.models import Models
from budmlx.server.app import HttpServer
from tests.entered import PACKAGE, Entered, Function
from tests.models import tiny_model_dir
from tests.server.tools import body, events, exchange, post

RINGS = ("server", "engine", "core", "plugins", "builtin")
REQUEST = body(stream=True, temperature=0.7, top_p=0.9, max_tokens=8)


@dataclass(frozen=True)
class File:
    """A file of the package, and the functions of it that ran: their names and lines."""

    name: str
    lines: int
    functions: dict[str, range]

    @property
    def ring(self) -> str:
        first = self.name.split("/")[0]
        return first if first in RINGS else "shared"

    @property
    def inside(self) -> int:
        """Lines in functions; those of functions in functions count once."""
        return len({line for lines in self.functions.values() for line in lines})


def read(entered: set[Function]) -> list[File]:
    """The files that were entered, by ring."""
    begins: dict[str, set[int]] = defaultdict(set)
    for path, line in entered:
        begins[path].add(line)
    files = []
    for path, lines in begins.items():
        source = Path(path).read_text("utf-8")
        found = {name: place for name, place in functions(ast.parse(source)) if place[0] in lines}
        name = str(Path(path).relative_to(PACKAGE))
        files.append(File(name, len(source.splitlines()), found))
    return sorted(files, key=lambda file: ([*RINGS, "shared"].index(file.ring), file.name))


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, range]]:
    """Qualified names of all functions with their lines, decorators included."""
    for node in ast.iter_child_nodes(tree):
        name = prefix
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            yield prefix + node.name, range(first, node.end_lineno + 1)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{prefix}{node.name}."
        yield from functions(node, name)


def report(files: list[File]) -> Iterator[str]:
    """Each file with its functions, sums by ring, and the sum of all as the last line."""
    for file in files:
        yield f"{file.name}: {file.lines} lines, {file.inside} in functions that ran"
        for name, lines in sorted(file.functions.items(), key=lambda item: item[1].start):
            yield f"    {name} ({len(lines)})"
    yield ""
    for ring in (*RINGS, "shared"):
        yield f"{ring}: {_sums([file for file in files if file.ring == ring])}"
    yield _sums(files)


def _sums(files: list[File]) -> str:
    ran = sum(len(file.functions) for file in files)
    inside, lines = (sum(getattr(file, name) for file in files) for name in ("inside", "lines"))
    return f"{len(files)} files, {ran} functions ({inside} lines), {lines} lines of files"


class Watch:
    """What runs in this process, and in the core if it is one of its own."""

    def __init__(self) -> None:
        self._here = Entered()
        self._core: Connection | None = None

    @contextmanager
    def engine(self, host: str) -> Iterator[Engine]:
        """An engine all of whose threads are watched."""
        self._here.install()
        with tempfile.TemporaryDirectory() as folder:
            address = str(Path(folder) / "core")
            command = (sys.executable, "-P", "-m", "tests.entered", address)
            ProcessHost.__init__.__kwdefaults__["command"] = command  # type: ignore[index]
            with (
                Listener(address, "AF_UNIX") as listener,
                Engine.load(tiny_model_dir(), engine_host=host) as engine,
            ):
                if host == "process":
                    self._core = listener.accept()
                yield engine

    def begin(self) -> None:
        self._ask_core("begin")
        self._here.begin()

    def end(self) -> set[Function]:
        entered = self._here.end()
        return entered | (self._ask_core("end") or set())

    def _ask_core(self, what: str) -> set[Function] | None:
        if self._core is None:
            return None
        self._core.send(what)
        answer: set[Function] | None = self._core.recv()
        return answer


async def chat(server: HttpServer) -> None:
    """One streamed chat, which must end well."""
    answer = await exchange(server, post(json.dumps(REQUEST).encode()))
    assert answer.status == 200 and events(answer.content)[-1] == "[DONE]"


async def follow(watch: Watch, engine: Engine) -> set[Function]:
    """What the second of two chats runs."""
    server = await HttpServer.start(Models.of(engine, ["demo"]), Config(port=0, drain_seconds=0))
    try:
        await chat(server)
        await asyncio.sleep(0.5)  # What comes after the first one is over.
        watch.begin()
        await chat(server)
        return watch.end()
    finally:
        await server.drain()


def main() -> None:
    """Print what ran."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", choices=["thread", "process"], default="thread")
    host = parser.parse_args().host
    watch = Watch()
    with watch.engine(host) as engine:
        entered = asyncio.run(follow(watch, engine))
    print(*report(read(entered)), sep="\n")


if __name__ == "__main__":
    main()
