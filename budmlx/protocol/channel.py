"""Channel: messages as length-prefixed msgpack frames over a stream socket."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import threading
from typing import Any, Generic, TypeVar

import msgspec

MAX_FRAME_BYTES = 64 * 2**20

_LENGTH = struct.Struct("!I")
_BUFFER_BYTES = 2**20
"""Of a socket, and of a read: a prompt or a picture is megabytes long."""

Incoming = TypeVar("Incoming")


class FrameError(Exception):
    """The peer sent something that is not a frame of the expected type."""


def connected_sockets() -> tuple[socket.socket, socket.socket]:
    """The two ends of a connection, with large buffers; those of macOS have 8 KiB by default."""
    pair = socket.socketpair()
    for end in pair:
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            with contextlib.suppress(OSError):  # over the system's limit
                end.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
    return pair


class Channel(Generic[Incoming]):
    """One end of a socket that carries frames both ways.

    One thread may send while another one receives.
    """

    def __init__(self, sock: socket.socket, incoming: Any):
        """Own `sock`; `incoming` is the type, or union of types, of what arrives."""
        self._sock = sock
        # OpenSSL takes one call at a time for a connection.
        self._turn = (
            threading.Lock() if isinstance(sock, ssl.SSLSocket) else contextlib.nullcontext()
        )
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[Incoming] = msgspec.msgpack.Decoder(incoming)
        self._read = memoryview(bytearray(_BUFFER_BYTES))
        self._buffer = bytearray()
        # poll, unlike select, takes descriptors above 1023; a socket timeout would bind sends too.
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def send(self, message: msgspec.Struct) -> None:
        """Send one frame; blocks while the peer's buffer is full.

        Raises:
            FrameError: the message is too long.
            OSError: the socket is closed.
        """
        body = self._encoder.encode(message)
        if len(body) > MAX_FRAME_BYTES:
            raise FrameError(f"A frame of {len(body)} bytes is over {MAX_FRAME_BYTES}.")
        with self._turn:
            self._sock.sendall(_LENGTH.pack(len(body)) + body)

    def receive(self, timeout: float | None = None) -> Incoming | None:
        """The next frame, or None when nothing at all came for `timeout` seconds.

        Raises:
            EOFError: the peer is gone.
            FrameError: it sent something else than a frame.
        """
        while True:
            body = self._take()
            if body is not None:
                return self._decode(body)
            if not self._poll.poll(None if timeout is None else timeout * 1000):
                return None
            try:
                count = self._received()
            except OSError:
                count = 0
            if count == 0:
                raise EOFError("The peer closed the connection.")
            self._buffer += self._read[: count or 0]

    def close(self) -> None:
        """Close the socket: the peer sees end of file, a thread stuck in `send` an OSError."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def _received(self) -> int | None:
        """Read what is there; None if that is no part of a frame. Raises OSError."""
        if not isinstance(self._sock, ssl.SSLSocket):
            return self._sock.recv_into(self._read)
        with self._turn:
            # It may be half of what TLS needs, and whoever sends must not wait for the rest.
            self._sock.settimeout(0.0)
            try:
                count = self._sock.recv_into(self._read)
                while self._sock.pending():  # `poll` sees only what TLS has not read
                    count += self._sock.recv_into(self._read[count:])
                return count
            except ssl.SSLWantReadError:
                return None
            finally:
                self._sock.settimeout(None)

    def _take(self) -> bytes | None:
        """Cut the first complete frame off the buffer."""
        if len(self._buffer) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer)
        if length > MAX_FRAME_BYTES:
            raise FrameError(f"The peer announced a frame of {length} bytes.")
        end = _LENGTH.size + length
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[_LENGTH.size : end])
        del self._buffer[:end]
        return body

    def _decode(self, body: bytes) -> Incoming:
        try:
            return self._decoder.decode(body)
        except msgspec.MsgspecError as error:
            raise FrameError(f"The peer sent an unreadable frame: {error}") from error
