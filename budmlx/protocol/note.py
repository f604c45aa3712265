"""Note: what a core process does now, in a small file that its parent reads.

It outlives the core, so that the parent of one that died reads it, too. Writing it before every
plan costs a microsecond and wakes nobody, where a frame would wake the parent.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import Self

NOTE_BYTES = 4096

# Where each part is. Every part has one writing thread, and is written at once.
BEAT, BEAT_AT = struct.Struct("<Qdd"), 0
PULSE, PULSE_AT = struct.Struct("<Q"), 24
COMPUTES_AT = 32
PLUGIN_AT = 40


@dataclass(frozen=True, slots=True)
class Note:
    """What a note says.

    beats: signs of life of the core's own thread so far. allowed: seconds that what it does now
    may take; a parent that is more patient waits longer. longest: seconds between two beats, at
    most of late, where nothing ran for the first time.
    pulses: signs of another thread, which come as long as the process runs and its threads get
    their turn. plugin: the one that is being called, or an empty string. computes: that call
    waits for the device, whose work is not the plugin's own.
    """

    beats: int = 0
    allowed: float = 0.0
    longest: float = 0.0
    pulses: int = 0
    plugin: str = ""
    computes: bool = False

    @classmethod
    def read(cls, descriptor: int) -> Self:
        """Read the note in a file of `NOTE_BYTES` bytes."""
        data = os.pread(descriptor, NOTE_BYTES, 0)
        beats, allowed, longest = BEAT.unpack_from(data, BEAT_AT)
        [pulses] = PULSE.unpack_from(data, PULSE_AT)
        plugin = data[PLUGIN_AT:].partition(b"\0")[0].decode(errors="replace")
        computes = data[COMPUTES_AT] != 0
        return cls(beats, allowed, longest, pulses, plugin, computes)
