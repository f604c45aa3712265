"""Messages between rank 0 and the others. Tensors take another way, MLX's own."""

from __future__ import annotations

import zlib

import msgspec

from budmlx.core.batch.plan import Plan, Result
from budmlx.protocol import GenerateRequest
from budmlx.protocol.proofs import Answer, Challenge, Welcome


class Assembled(msgspec.Struct, frozen=True, tag="assembled"):
    """All ranks have joined: they connect to each other, and load the model."""


class Begin(msgspec.Struct, frozen=True, tag="begin"):
    """Go on with an executor that has nothing. reuse: bytes for KV of former prompts."""

    reuse: int


class Turn(msgspec.Struct, frozen=True, tag="turn"):
    """Run a plan. rows: those that came since the plan before. now: the time, for what is retained.

    before: `digest` of rank 0's last result, since what follows is right for no other.
    """

    plan: Plan
    now: float
    before: int
    rows: list[GenerateRequest] = []


class Look(msgspec.Struct, frozen=True, tag="look"):
    """Look a prompt up in what is stored, which counts as a use of it."""

    namespace: str
    keys: list[int]


class Limit(msgspec.Struct, frozen=True, tag="limit"):
    """See `Executor.set_memory_limit`."""

    limit: int
    prefix_cache: float


ToFollower = Challenge | Welcome | Assembled | Begin | Turn | Look | Limit


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The model is in memory. facts: what must be the same on all ranks, by name.

    limit: bytes that it may take on this rank.
    """

    facts: dict[str, str]
    limit: int = 0


FromFollower = Answer | Ready

_encoder = msgspec.msgpack.Encoder()


def digest(result: Result) -> int:
    """A number for the prompts and groups that a plan left, the same on all ranks."""
    return zlib.crc32(_encoder.encode((result.prompts, result.groups)))
