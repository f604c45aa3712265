"""Joining: how ranks find each other, and how each proves to the other that it belongs there."""

from __future__ import annotations

import contextlib
import socket
import time

from budmlx.core.ranks.messages import Assembled, FromFollower, ToFollower
from budmlx.errors import RanksError
from budmlx.protocol import Place
from budmlx.protocol.channel import Channel, FrameError
from budmlx.protocol.links import accepted, connect, listen
from budmlx.protocol.proofs import admit, prove

# Seconds for all ranks to come: their processes start at the same time.
JOIN_SECONDS = 60.0


def await_followers(
    place: Place, seconds: float = JOIN_SECONDS
) -> dict[int, Channel[FromFollower]]:
    """The channels to all other ranks, by rank.

    Raises:
        RanksError: one did not come within `seconds`, or the address is taken.
    """
    joined: dict[int, Channel[FromFollower]] = {}
    end = time.monotonic() + seconds
    try:
        server = listen(place.control, backlog=place.size)
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
            if (found := _admitted(connection, place)) is not None:
                joined[found[0]] = found[1]
    for channel in joined.values():
        channel.send(Assembled())
    return joined


def _admitted(connection: socket.socket, place: Place) -> tuple[int, Channel[FromFollower]] | None:
    """The rank that connected, and its channel; None for whoever is none, which is hung up on."""
    ready = accepted(connection, place.certificate)
    if ready is None:
        return None
    channel: Channel[FromFollower] = Channel(ready, FromFollower)
    with contextlib.suppress(EOFError, FrameError, OSError):
        rank = admit(channel, place.secret)
        if rank is not None and 0 < rank < place.size:
            return rank, channel
    channel.close()
    return None


def join(place: Place, seconds: float = JOIN_SECONDS) -> Channel[ToFollower]:
    """The channel to rank 0, once all ranks have joined.

    Raises:
        RanksError: rank 0 did not answer within `seconds`, or it is somebody else.
    """
    end = time.monotonic() + seconds
    try:
        connection = connect(place.control, seconds, place.digest)
    except OSError as error:
        raise _cannot_join(place, str(error)) from error
    channel: Channel[ToFollower] = Channel(connection, ToFollower)
    with contextlib.suppress(EOFError, FrameError, OSError):
        if prove(channel, place.secret, place.rank) and isinstance(
            channel.receive(max(end - time.monotonic(), 0.0)), Assembled
        ):
            return channel
    channel.close()
    raise _cannot_join(place, "what answered does not know the secret")


def _cannot_join(place: Place, problem: str) -> RanksError:
    return RanksError(f"Rank {place.rank} cannot join rank 0 at {place.control}: {problem}.")
