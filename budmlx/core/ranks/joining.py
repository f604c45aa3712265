"""Joining: how ranks find each other, and how each proves to the other that it belongs there."""

from __future__ import annotations

import contextlib
import hmac
import secrets
import socket
import time
from dataclasses import dataclass

from budmlx.core.ranks.messages import (
    Answer,
    Assembled,
    Challenge,
    FromFollower,
    ToFollower,
    Welcome,
)
from budmlx.errors import RanksError
from budmlx.protocol import Place
from budmlx.protocol.channel import Channel, FrameError

# Seconds for all ranks to come: their processes start at the same time.
JOIN_SECONDS = 60.0
# Seconds for whoever connects to say who it is.
_ANSWER_SECONDS = 5.0
_RETRY_SECONDS = 0.05
_NONCE_BYTES = 32


@dataclass(frozen=True, slots=True)
class Secret:
    """What all ranks know, and nobody else."""

    text: str

    def follower(self, rank: int, theirs: bytes, own: bytes) -> bytes:
        """What proves that the sender is that rank. theirs: rank 0's nonce."""
        return self._proof(f"rank {rank}".encode(), theirs, own)

    def leader(self, theirs: bytes, own: bytes) -> bytes:
        """What proves that the sender is rank 0. theirs: the nonce of the answer."""
        return self._proof(b"rank 0", theirs, own)

    def _proof(self, who: bytes, first: bytes, second: bytes) -> bytes:
        return hmac.digest(self.text.encode(), who + first + second, "sha256")


def await_followers(
    place: Place, seconds: float = JOIN_SECONDS
) -> dict[int, Channel[FromFollower]]:
    """The channels to all other ranks, by rank.

    Raises:
        RanksError: one did not come within `seconds`, or the address is taken.
    """
    host, _, port = place.control.rpartition(":")
    joined: dict[int, Channel[FromFollower]] = {}
    end = time.monotonic() + seconds
    try:
        server = socket.create_server((host, int(port)), backlog=place.size)
    except OSError as error:
        raise RanksError(
            f"Rank 0 cannot listen on {place.control}: {error}.", code="address_taken"
        ) from error
    with server:
        while len(joined) < place.size - 1:
            server.settimeout(max(end - time.monotonic(), 0.001))
            try:
                connection, _address = server.accept()
            except TimeoutError as error:
                missing = sorted(set(range(1, place.size)) - joined.keys())
                names = ", ".join(map(str, missing))
                raise RanksError(
                    f"Of {place.size} ranks, these did not join within {seconds:.0f} s: {names}."
                ) from error
            if (found := _admitted(connection, Secret(place.secret), place.size)) is not None:
                joined[found[0]] = found[1]
    for channel in joined.values():
        channel.send(Assembled())
    return joined


def _admitted(
    connection: socket.socket, secret: Secret, size: int
) -> tuple[int, Channel[FromFollower]] | None:
    """The rank that connected, and its channel; None for whoever is none, which is hung up on."""
    connection.settimeout(None)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    channel: Channel[FromFollower] = Channel(connection, FromFollower)
    nonce = secrets.token_bytes(_NONCE_BYTES)
    with contextlib.suppress(EOFError, FrameError, OSError):
        channel.send(Challenge(nonce))
        answer = channel.receive(_ANSWER_SECONDS)
        if isinstance(answer, Answer) and 0 < answer.rank < size:
            expected = secret.follower(answer.rank, nonce, answer.nonce)
            if hmac.compare_digest(answer.proof, expected):
                channel.send(Welcome(secret.leader(answer.nonce, nonce)))
                return answer.rank, channel
    channel.close()
    return None


def join(place: Place, seconds: float = JOIN_SECONDS) -> Channel[ToFollower]:
    """The channel to rank 0, once all ranks have joined.

    Raises:
        RanksError: rank 0 did not answer within `seconds`, or it is somebody else.
    """
    host, _, port = place.control.rpartition(":")
    end = time.monotonic() + seconds
    problem = "it did not answer"
    while time.monotonic() < end:
        try:
            connection = socket.create_connection((host, int(port)), end - time.monotonic())
        except OSError as error:
            problem = str(error)
            time.sleep(_RETRY_SECONDS)
            continue
        connection.settimeout(None)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        channel: Channel[ToFollower] = Channel(connection, ToFollower)
        with contextlib.suppress(EOFError, FrameError, OSError):
            if _prove(channel, place, end):
                return channel
        problem = "what answered does not know the secret"
        channel.close()
        break
    raise RanksError(f"Rank {place.rank} cannot join rank 0 at {place.control}: {problem}.")


def _prove(channel: Channel[ToFollower], place: Place, end: float) -> bool:
    """Prove each to the other that it belongs there; returns whether all ranks have joined."""
    secret, nonce = Secret(place.secret), secrets.token_bytes(_NONCE_BYTES)
    challenge = channel.receive(_ANSWER_SECONDS)
    if not isinstance(challenge, Challenge):
        return False
    proof = secret.follower(place.rank, challenge.nonce, nonce)
    channel.send(Answer(place.rank, nonce, proof))
    welcome = channel.receive(_ANSWER_SECONDS)
    expected = secret.leader(nonce, challenge.nonce)
    if not (isinstance(welcome, Welcome) and hmac.compare_digest(welcome.proof, expected)):
        return False
    return isinstance(channel.receive(max(end - time.monotonic(), 0.0)), Assembled)
