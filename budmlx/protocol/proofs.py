"""Proofs: how two processes of ranks prove to each other that they know the same secret."""

from __future__ import annotations

import hmac
import secrets
from typing import Any

import msgspec

from budmlx.protocol.channel import Channel

# Seconds for whoever connects to say who it is.
ANSWER_SECONDS = 5.0
_NONCE_BYTES = 32


class Challenge(msgspec.Struct, frozen=True, tag="challenge"):
    """First message to whoever connects. nonce: what the answer must prove to have seen."""

    nonce: bytes


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    """The answer to a challenge. proof: over rank and both nonces; nonce: for the other to prove.

    rank: whose it is; -1 for the one that the address says.
    """

    rank: int
    nonce: bytes
    proof: bytes


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    """The answer was right. proof: that this is rank 0's side, over the nonce of the answer."""

    proof: bytes


def admit(channel: Channel[Any], secret: str) -> int | None:
    """Who connected: the rank that it says to be, if it knows the secret; else None.

    Raises:
        EOFError, FrameError, OSError: it is gone, or it is something else.
    """
    nonce = secrets.token_bytes(_NONCE_BYTES)
    channel.send(Challenge(nonce))
    answer = channel.receive(ANSWER_SECONDS)
    if not isinstance(answer, Answer):
        return None
    if not hmac.compare_digest(answer.proof, _of_rank(secret, answer.rank, nonce, answer.nonce)):
        return None
    channel.send(Welcome(_of_leader(secret, answer.nonce, nonce)))
    return answer.rank


def prove(channel: Channel[Any], secret: str, rank: int) -> bool:
    """Answer the challenge of who listens; returns whether it knows the secret, too.

    Raises:
        EOFError, FrameError, OSError: it is gone, or it is something else.
    """
    nonce = secrets.token_bytes(_NONCE_BYTES)
    challenge = channel.receive(ANSWER_SECONDS)
    if not isinstance(challenge, Challenge):
        return False
    channel.send(Answer(rank, nonce, _of_rank(secret, rank, challenge.nonce, nonce)))
    welcome = channel.receive(ANSWER_SECONDS)
    expected = _of_leader(secret, nonce, challenge.nonce)
    return isinstance(welcome, Welcome) and hmac.compare_digest(welcome.proof, expected)


def _of_rank(secret: str, rank: int, theirs: bytes, own: bytes) -> bytes:
    return _proof(secret, f"rank {rank}".encode(), theirs, own)


def _of_leader(secret: str, theirs: bytes, own: bytes) -> bytes:
    return _proof(secret, b"rank 0", theirs, own)


def _proof(secret: str, who: bytes, first: bytes, second: bytes) -> bytes:
    return hmac.digest(secret.encode(), who + first + second, "sha256")
