"""Note: what a core process does now, in a small file that its parent reads.

It outlives the core, so that the parent of one that died reads it, too. Writing it before every
plan costs a microsecond and wakes nobody, where a frame would wake the parent.
"""

from __future__ import annotations

import contextlib
import os
import struct
from dataclasses import dataclass
from typing import Self

NOTE_BYTES = 4096

# Where each part is. Every part has one writing thread, and is written at once.
_BEAT, _BEAT_AT = struct.Struct("<Qd"), 0
_PULSE, _PULSE_AT = struct.Struct("<Q"), 16
_COMPUTES_AT = 24
_PLUGIN_AT = 32


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
