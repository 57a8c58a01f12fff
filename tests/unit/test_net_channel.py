"""A plain channel wakes its loop seldom while much is to come, and at the last byte all the same."""

from __future__ import annotations

import select
import socket
import sys
from collections.abc import Iterator

import pytest

from asyncart.net.channel import LOW_WATER_BYTES, PlainChannel

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="low-water marks are Linux's")


@pytest.fixture
def pair() -> Iterator[tuple[PlainChannel, socket.socket]]:
    """A channel over TCP, and the peer's end."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    ours.setblocking(False)
    with ours, theirs:
        yield PlainChannel(ours), theirs


def is_readable(channel: PlainChannel) -> bool:
    """Whether it is, or becomes so as what was sent over loopback arrives."""
    return bool(select.select([channel.sock], [], [], 0.05)[0])


def mark(channel: PlainChannel) -> int:
    return channel.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)


def room(channel: PlainChannel) -> int:
    return channel.sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


@pytest.mark.parametrize("nbytes", [LOW_WATER_BYTES - 1, LOW_WATER_BYTES, LOW_WATER_BYTES + 1])
def test_it_waits_for_a_good_part_and_never_for_more_than_comes(
    pair: tuple[PlainChannel, socket.socket], nbytes: int
) -> None:
    channel, _ = pair
    channel.expect(nbytes)
    assert 1 < mark(channel) <= min(nbytes, LOW_WATER_BYTES)


def test_the_last_bytes_wake_it(pair: tuple[PlainChannel, socket.socket]) -> None:
    """Less than was expected does not; when no more is expected, the same bytes do."""
    channel, peer = pair
    channel.expect(8 << 20)
    peer.sendall(b"1234")
    assert not is_readable(channel)
    channel.expect(4)
    assert is_readable(channel)


def test_the_end_of_the_connection_wakes_it(pair: tuple[PlainChannel, socket.socket]) -> None:
    channel, peer = pair
    channel.expect(8 << 20)
    peer.close()
    assert is_readable(channel)


def test_a_large_body_gets_room_which_stays(pair: tuple[PlainChannel, socket.socket]) -> None:
    """A small one does not: most connections need none."""
    channel, _ = pair
    before = room(channel)
    channel.expect(LOW_WATER_BYTES)
    small = room(channel)
    channel.expect(8 << 20)
    large = room(channel)
    channel.expect(1)
    assert before <= small < large == room(channel)
    assert mark(channel) == 1
