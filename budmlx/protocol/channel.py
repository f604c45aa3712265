"""Channel: messages as length-prefixed msgpack frames over a stream socket."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
from typing import Any, Generic, TypeVar

import msgspec

MAX_FRAME_BYTES = 64 * 2**20

_LENGTH = struct.Struct("!I")
_READ_BYTES = 2**16

Incoming = TypeVar("Incoming")


class FrameError(Exception):
    """The peer sent something that is not a frame of the expected type."""


class Channel(Generic[Incoming]):
    """One end of a socket that carries frames both ways.

    One thread may send while another one receives.
    """

    def __init__(self, sock: socket.socket, incoming: Any):
        """Own `sock`; `incoming` is the type, or union of types, of what arrives."""
        self._sock = sock
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[Incoming] = msgspec.msgpack.Decoder(incoming)
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
                data = self._sock.recv(_READ_BYTES)
            except OSError:
                data = b""
            if not data:
                raise EOFError("The peer closed the connection.")
            self._buffer += data

    def close(self) -> None:
        """Close the socket: the peer sees end of file, a thread stuck in `send` an OSError."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

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
