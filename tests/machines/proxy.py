"""Proxies in all links between two ranks, which make them slow, stall them or cut them."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable

import msgspec

from budmlx.protocol import Place
from budmlx.protocol.links import connect

_LISTEN_SECONDS = 60.0


class Proxies:
    """TCP proxies. delay: seconds that every piece takes, either way."""

    def __init__(self, delay: float = 0.0):
        self._delay = delay
        self._servers: list[socket.socket] = []
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._stalled = threading.Event()  # of the connections of now
        self.carried = 0

    def seen_by(self, rank: int, place: Place) -> Place:
        """A place in whose addresses every other rank is behind a proxy."""
        ring = [each if n == rank else self.to(each) for n, each in enumerate(place.ring)]
        control = place.control if rank == 0 else self.to(place.control)
        return msgspec.structs.replace(place, ring=ring, control=control)

    def stall(self) -> None:
        """Let nothing through any more, without a word; later connections are not concerned."""
        stalled, self._stalled = self._stalled, threading.Event()
        stalled.set()

    def cut(self) -> None:
        """Close all connections."""
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close everything."""
        self.cut()
        for each in self._servers:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(_LISTEN_SECONDS)
        for each in self._open:
            each.close()

    def to(self, target: str) -> str:
        """The address of a proxy of this one."""
        server = socket.create_server(("127.0.0.1", 0))
        self._servers.append(server)
        self._run(self._serve, server, target)
        return f"127.0.0.1:{server.getsockname()[1]}"

    def _serve(self, server: socket.socket, target: str) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = server.accept()
                far = connect(target, _LISTEN_SECONDS)  # nobody may listen there yet
                self._open += [client, far]
                for pair in ((client, far), (far, client)):
                    self._run(self._pump, *pair, self._stalled)

    def _run(self, body: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=body, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _pump(self, source: socket.socket, sink: socket.socket, stalled: threading.Event) -> None:
        with contextlib.suppress(OSError):
            sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while data := source.recv(65536):
                time.sleep(self._delay)
                if stalled.is_set():
                    continue
                sink.sendall(data)
                self.carried += len(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
