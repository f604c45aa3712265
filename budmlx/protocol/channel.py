"""Channel and note, between a core process and its parent: messages as length-prefixed msgpack
frames over a stream socket, and what the core does now, in a small file.

The note outlives the core, so that the parent of one that died reads it, too. Writing it before
every plan costs a microsecond and wakes nobody, where a frame would wake the parent.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

import msgspec

MAX_FRAME_BYTES = 64 * 2**20
NOTE_BYTES = 4096

_LENGTH = struct.Struct("!I")
_READ_BYTES = 2**16

# Where each part of a note is. Every part has one writing thread, and is written at once.
_BEAT, _BEAT_AT = struct.Struct("<Qd"), 0
_PULSE, _PULSE_AT = struct.Struct("<Q"), 16
_COMPUTES_AT = 24
_PLUGIN_AT = 32

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


@dataclass(frozen=True, slots=True)
class Note:
    """What a note says.

    beats: signs of life of the core's own thread so far. allowed: seconds that what it does now
    may take; a parent that is more patient waits longer. pulses: signs of another thread, which
    come as long as the process runs and its threads get their turn.
    plugin: the one that is being called, or an empty string. computes: that call waits for the
    device, whose work is not the plugin's own.
    """

    beats: int = 0
    allowed: float = 0.0
    pulses: int = 0
    plugin: str = ""
    computes: bool = False

    @classmethod
    def read(cls, descriptor: int) -> Self:
        """Read the note in a file of `NOTE_BYTES` bytes."""
        data = os.pread(descriptor, NOTE_BYTES, 0)
        beats, allowed = _BEAT.unpack_from(data, _BEAT_AT)
        [pulses] = _PULSE.unpack_from(data, _PULSE_AT)
        plugin = data[_PLUGIN_AT:].partition(b"\0")[0].decode(errors="replace")
        return cls(beats, allowed, pulses, plugin, data[_COMPUTES_AT] != 0)


class NoteWriter:
    """Writes a note.

    descriptor: of the file; None, as for a core in a thread of its parent, writes nothing.
    """

    def __init__(self, descriptor: int | None = None):
        self.descriptor = descriptor
        self._pulses = 0

    def beat(self, beats: int, allowed: float) -> None:
        """See `Note`."""
        self._write(_BEAT.pack(beats, allowed), _BEAT_AT)

    def pulse(self) -> None:
        """Count one more pulse."""
        self._pulses += 1
        self._write(_PULSE.pack(self._pulses), _PULSE_AT)

    def plugin(self, name: str) -> None:
        """Replace the name; an empty one clears it."""
        self._write(name.encode() + b"\0", _PLUGIN_AT)

    def computes(self, computes: bool) -> None:
        """See `Note`."""
        self._write(bytes([computes]), _COMPUTES_AT)

    def _write(self, data: bytes, offset: int) -> None:
        if self.descriptor is not None:
            # A plain write, since it fails where a write to mapped memory would end the process.
            with contextlib.suppress(OSError):
                os.pwrite(self.descriptor, data, offset)
