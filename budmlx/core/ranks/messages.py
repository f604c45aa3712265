"""Messages between rank 0 and the others. Tensors take another way, MLX's own."""

from __future__ import annotations

import zlib

import msgspec

from budmlx.core.batch.plan import Plan, Result
from budmlx.protocol import GenerateRequest


class Challenge(msgspec.Struct, frozen=True, tag="challenge"):
    """First message to whoever connects. nonce: what the answer must prove to have seen."""

    nonce: bytes


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    """The answer was right. proof: that this is rank 0, over the nonce of the answer."""

    proof: bytes


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


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    """The answer to a challenge. proof: over rank and both nonces; nonce: for rank 0 to prove."""

    rank: int
    nonce: bytes
    proof: bytes


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The model is in memory. facts: what must be the same on all ranks, by name."""

    facts: dict[str, str]


FromFollower = Answer | Ready

_encoder = msgspec.msgpack.Encoder()


def digest(result: Result) -> int:
    """A number for the prompts and groups that a plan left, the same on all ranks."""
    return zlib.crc32(_encoder.encode((result.prompts, result.groups)))
