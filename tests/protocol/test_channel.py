"""Frames over a socket: any split of the bytes, and bytes that are no frames."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from budmlx.protocol import (
    Cancel,
    FromCore,
    GenerateRequest,
    MemoryUse,
    RowFailed,
    StepFrame,
    Submit,
    ToCore,
    Token,
)
from budmlx.protocol.channel import MAX_FRAME_BYTES, Channel, FrameError, connected_sockets
from budmlx.types import SamplingParams
from tests.parameters import all_given

NO_TIME = 0.0

frames = st.builds(
    StepFrame,
    tokens=st.lists(
        st.builds(
            Token,
            id=st.integers(0, 2**60),
            token=st.integers(0, 2**31),
            reason=st.just("stop") | st.none(),
        )
    ),
    failed=st.lists(
        st.builds(
            RowFailed,
            id=st.integers(0, 9),
            code=st.just("invalid_grammar"),
            message=st.text(),
            param=st.text() | st.none(),
        )
    ),
    started=st.lists(st.integers(0, 2**60)),
    memory=st.builds(MemoryUse, *3 * [st.integers(0, 2**60)]),
)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, Channel[FromCore]]]:
    """A raw end, and a channel at the other end."""
    raw, other = socket.socketpair()
    channel: Channel[FromCore] = Channel(other, FromCore)
    yield raw, channel
    channel.close()
    raw.close()


@given(messages=st.lists(frames, max_size=5), cuts=st.lists(st.integers(1, 40), min_size=1))
def test_any_split_gives_the_same_frames(messages: list[StepFrame], cuts: list[int]) -> None:
    source, target = socket.socketpair()
    channel: Channel[FromCore] = Channel(target, FromCore)
    data = b"".join(
        struct.pack("!I", len(body)) + body for body in map(msgspec.msgpack.encode, messages)
    )
    seen = []
    while data:
        for cut in cuts:
            source.sendall(data[:cut])
            data = data[cut:]
            while (frame := channel.receive(NO_TIME)) is not None:
                seen.append(frame)
    assert seen == messages
    source.close()
    with pytest.raises(EOFError):
        channel.receive()
    channel.close()


def test_both_ways() -> None:
    left, right = socket.socketpair()
    core: Channel[ToCore] = Channel(left, ToCore)
    engine: Channel[FromCore] = Channel(right, FromCore)
    engine.send(Cancel(7))
    assert core.receive() == Cancel(7)
    core.send(StepFrame(started=[1]))
    assert engine.receive() == StepFrame(started=[1])
    assert engine.receive(NO_TIME) is None
    core.close()
    with pytest.raises(EOFError):
        engine.receive()
    with pytest.raises(OSError):
        engine.send(Cancel(1))
    engine.close()


def test_both_ends_have_large_buffers() -> None:
    for ours, usual in zip(connected_sockets(), socket.socketpair(), strict=True):
        with ours, usual:
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                large, small = (end.getsockopt(socket.SOL_SOCKET, option) for end in (ours, usual))
                assert large > small


class CountingSocket(socket.socket):
    """Counts its reads."""

    reads = 0

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.reads += 1
        return super().recv_into(*args, **kwargs)


def test_a_large_frame_takes_few_reads() -> None:
    raw, other = connected_sockets()
    counting = CountingSocket(fileno=other.detach())
    channel: Channel[FromCore] = Channel(counting, FromCore)
    frame = StepFrame(started=list(range(2**40, 2**40 + 15_000)))
    body = msgspec.msgpack.encode(frame)
    assert len(body) > 2**17
    raw.sendall(struct.pack("!I", len(body)) + body)
    assert channel.receive() == frame
    assert counting.reads <= 2
    channel.close()
    raw.close()


def test_a_row_crosses_with_every_sampling_parameter() -> None:
    sampling = SamplingParams(**all_given())
    assert not [
        field.name for field in fields(sampling) if getattr(sampling, field.name) == field.default
    ]
    left, right = socket.socketpair()
    core: Channel[ToCore] = Channel(left, ToCore)
    engine: Channel[FromCore] = Channel(right, FromCore)
    for params in (sampling, SamplingParams()):
        sent = Submit(
            GenerateRequest(
                id=1, prompt_ids=[3], sampling=params, seed=4, max_tokens=5, stop_ids=[6]
            )
        )
        engine.send(sent)
        assert core.receive() == sent
    core.close()
    engine.close()


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("!I", MAX_FRAME_BYTES + 1),
        b"HTTP/1.1 200 OK\r\n\r\n",
        struct.pack("!I", 3) + b"\xc1\xc1\xc1",
        struct.pack("!I", 1) + msgspec.msgpack.encode(5),
        (lambda body: struct.pack("!I", len(body)) + body)(msgspec.msgpack.encode(Cancel(1))),
    ],
)
def test_garbage_is_refused(data: bytes, pair: tuple[socket.socket, Channel[FromCore]]) -> None:
    raw, channel = pair
    raw.sendall(data)
    with pytest.raises(FrameError):
        channel.receive()


def test_a_cut_frame_is_an_end_of_file(pair: tuple[socket.socket, Channel[FromCore]]) -> None:
    raw, channel = pair
    raw.sendall(struct.pack("!I", 10) + b"half")
    raw.shutdown(socket.SHUT_WR)
    with pytest.raises(EOFError):
        channel.receive()


def test_a_frame_that_is_too_large_is_not_sent(
    pair: tuple[socket.socket, Channel[FromCore]],
) -> None:
    _raw, channel = pair
    with pytest.raises(FrameError):
        channel.send(Submit(msgspec.Raw(b"x" * MAX_FRAME_BYTES)))  # type: ignore[arg-type]
