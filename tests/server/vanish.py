"""Run in a network of its own, which it takes down: clients vanish without a word.

Prints, as JSON, how many seconds it took until nothing of them was left, and what was seen.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import socket
import struct
import sys
import time

from budmlx import Engine
from budmlx.config import Config
from budmlx.engine.models.models import Models
from budmlx.server.app import HttpServer
from budmlx.server.limits import Limits
from tests.server.tools import body, endless, exchange, get, post, until

GET_FLAGS, SET_FLAGS, UP = 0x8913, 0x8914, 1


def loopback(*, up: bool) -> None:
    """Take the only network of this process up or down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(control, GET_FLAGS, request))[1]
        flags = flags | UP if up else flags & ~UP
        fcntl.ioctl(control, SET_FLAGS, struct.pack("16sH14x", b"lo", flags))


async def main(model: str, seconds: float) -> None:
    """Serve a stream, a reply that is waited for, and an idle client; then lose them."""
    with Engine.load(model, engine_host="thread", prefix_cache="0") as engine:
        limits = Limits(vanished_seconds=seconds)
        config = Config(port=0, drain_seconds=0)
        server = await HttpServer.start(Models.of(engine, ("demo",)), config, limits=limits)
        held = []
        for each in (endless(stream=True), endless()):
            # So long that neither ends by itself.
            raw = post(json.dumps({**each, "n": 4}).encode(), Connection="keep-alive")
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(raw)
            held.append((reader, writer))
        idle = await asyncio.open_connection("127.0.0.1", server.port)
        idle[1].write(get("/health").replace(b"close", b"keep-alive"))
        await idle[0].readuntil(b"ok")
        await held[0][0].readuntil(b"data: ")
        await until(lambda: engine.status().running == 8)
        begin, before = time.monotonic(), server.connections
        loopback(up=False)
        await until(lambda: engine.status().running == server.in_flight.count == 0, 60)
        rows = time.monotonic() - begin
        await until(lambda: server.connections == 0, 60)
        gone = time.monotonic() - begin
        loopback(up=True)
        answer = await exchange(server, post(json.dumps(body()).encode()))
        found = {"before": before, "rows": rows, "gone": gone, "then": answer.status}
        print(json.dumps(found))
        await server.drain()


if __name__ == "__main__":
    loopback(up=True)
    asyncio.run(main(sys.argv[1], float(sys.argv[2])))
