"""Who may join: over real sockets, each side proves to the other that it knows the secret."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import msgspec
import pytest

from budmlx.core.ranks.facts import differing
from budmlx.core.ranks.joining import await_followers, join
from budmlx.core.ranks.messages import (
    FromFollower,
    Limit,
    Look,
    Ready,
    ToFollower,
)
from budmlx.engine.hosts.ranks import choose_place
from budmlx.errors import ModelLoadError
from budmlx.protocol import Place
from budmlx.protocol.channel import Channel
from budmlx.protocol.proofs import Answer, Challenge, Welcome


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as threads:
        yield threads


def of(place: Place, rank: int, **changes: Any) -> Place:
    return msgspec.structs.replace(place, rank=rank, **changes)


def test_all_ranks_join_in_any_order(threads: ThreadPoolExecutor) -> None:
    place = choose_place(4)
    joining = [threads.submit(join, of(place, rank)) for rank in (3, 1, 2)]
    followers = await_followers(place)
    assert sorted(followers) == [1, 2, 3]
    for channel in followers.values():
        channel.send(Limit(5, 0.5))
    for rank, future in zip((3, 1, 2), joining, strict=True):
        channel: Channel[ToFollower] = future.result()
        assert channel.receive(5) == Limit(5, 0.5)
        channel.send(Ready({"rank": str(rank)}))
        assert followers[rank].receive(5) == Ready({"rank": str(rank)})
        channel.close()
        followers[rank].close()


def test_who_does_not_know_the_secret_is_no_rank(threads: ThreadPoolExecutor) -> None:
    place = choose_place(2)
    waiting: Future[Any] = threads.submit(await_followers, place, 60.0)
    with pytest.raises(ModelLoadError, match="rank 0 at"):
        join(of(place, 1, secret="something else"))
    stranger = connected(place)
    stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
    silent = connected(place)
    assert silent.recv(1)  # the challenge; it never answers
    stranger.close()
    silent.close()
    own = threads.submit(join, of(place, 1))
    assert list(waiting.result()) == [1]
    own.result().close()
    waiting.result()[1].close()


def test_an_answer_proves_nothing_a_second_time(threads: ThreadPoolExecutor) -> None:
    """What somebody heard on the way from a rank does not let him in."""
    place = choose_place(3)
    waiting = threads.submit(await_followers, place, 60.0)
    mine: Channel[ToFollower] = Channel(connected(place), ToFollower)
    challenge = mine.receive(5)
    assert isinstance(challenge, Challenge)
    with pytest.raises(EOFError):
        mine.send(Answer(1, challenge.nonce, challenge.nonce))
        mine.receive(5)
    first, second = (threads.submit(join, of(place, rank)) for rank in (1, 2))
    for channel in (*waiting.result().values(), first.result(), second.result()):
        channel.close()


def test_rank_0_must_know_the_secret_too(threads: ThreadPoolExecutor) -> None:
    place = choose_place(2)
    host, _, port = place.control.rpartition(":")
    with socket.create_server((host, int(port))) as server:
        joining = threads.submit(join, of(place, 1))
        channel: Channel[FromFollower] = Channel(server.accept()[0], FromFollower)
        channel.send(Challenge(bytes(32)))
        assert isinstance(channel.receive(5), Answer)
        channel.send(Welcome(bytes(32)))
        with pytest.raises(ModelLoadError, match="does not know the secret"):
            joining.result()
        channel.close()


def test_a_rank_that_does_not_come_is_named() -> None:
    with pytest.raises(ModelLoadError, match=r"Of 3 ranks.*: 1, 2\."):
        await_followers(choose_place(3), 0.05)


def test_an_address_that_is_taken_is_named() -> None:
    place = choose_place(2)
    host, _, port = place.control.rpartition(":")
    with (
        socket.create_server((host, int(port))),
        pytest.raises(ModelLoadError, match=place.control),
    ):
        await_followers(place, 1.0)


def test_what_differs_is_named() -> None:
    ours = {"the version of mlx": "1", "the model's files": "a"}
    assert differing(ours, dict(ours)) == ""
    assert differing(ours, {**ours, "the version of mlx": "2"}) == "the version of mlx is 2, not 1"
    assert "unknown" in differing(ours, {})


def test_a_message_keeps_what_it_says() -> None:
    look = Look("space", [1, -5])
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(look), type=ToFollower) == look


def connected(place: Place) -> socket.socket:
    host, _, port = place.control.rpartition(":")
    for _ in range(1000):
        try:
            return socket.create_connection((host, int(port)))
        except ConnectionRefusedError:
            continue
    raise AssertionError("nobody listens")
