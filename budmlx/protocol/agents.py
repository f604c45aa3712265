"""Agents: what the host of a model and the programs that start its ranks elsewhere say.

An agent runs on each other machine (`budmlx rank`) and starts one core after the other there.
"""

from __future__ import annotations

import msgspec

from budmlx.protocol.frames import LoadFailed
from budmlx.protocol.proofs import Answer, Challenge, Welcome
from budmlx.protocol.settings import CoreSettings

# From the host to an agent.


class Start(msgspec.Struct, frozen=True, tag="start"):
    """Start a core. number: of this one. patience: seconds without a word of the host's after which
    the core is to end.
    """

    number: int
    settings: CoreSettings
    patience: float


class Kill(msgspec.Struct, frozen=True, tag="kill"):
    """End a core, if it is the one that runs."""

    number: int


class Beat(msgspec.Struct, frozen=True, tag="beat"):
    """The host is there."""


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The agent cannot take part."""

    reason: str


class Echo(msgspec.Struct, frozen=True, tag="echo"):
    """Send these bytes back, which measures the link."""

    data: bytes


class Probe(msgspec.Struct, frozen=True, tag="probe"):
    """Measure the device."""


ToAgent = Challenge | Welcome | Start | Kill | Beat | Refused | Echo | Probe

# From an agent to the host.


class Came(msgspec.Struct, frozen=True, tag="came"):
    """The first message after the proofs. protocol: the version that the agent speaks."""

    protocol: int


class Pulse(msgspec.Struct, frozen=True, tag="pulse"):
    """The agent is there. number, pulses: of the core that runs, and of its note; 0 without one."""

    number: int = 0
    pulses: int = 0


class Problem(msgspec.Struct, frozen=True, tag="problem"):
    """The core cannot load the model."""

    number: int
    failed: LoadFailed


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """The core is gone. how: in words."""

    number: int
    how: str


class Echoed(msgspec.Struct, frozen=True, tag="echoed"):
    """What came with an `Echo`."""

    data: bytes


class Probed(msgspec.Struct, frozen=True, tag="probed"):
    """What `budmlx.core.speed_test` prints; empty if it failed."""

    text: str


FromAgent = Answer | Came | Pulse | Problem | Ended | Echoed | Probed
