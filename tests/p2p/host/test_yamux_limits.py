"""Which frames of the multiplexer are in order, what they count for, and who has to go when too much waits."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.stream_muxer.yamux.yamux import (
    FLAG_ACK,
    FLAG_FIN,
    FLAG_RST,
    FLAG_SYN,
    TYPE_DATA,
    TYPE_GO_AWAY,
    TYPE_PING,
    TYPE_WINDOW_UPDATE,
    YAMUX_HEADER_FORMAT,
)

from p2p.host.yamux_limits import PING_COST, SYN_COST, BufferBudget, check_frame
from p2p.network import Misbehaviour


def header(kind: int, flags: int = 0, stream: int = 0, length: int = 0, version: int = 0) -> bytes:
    return struct.pack(YAMUX_HEADER_FORMAT, version, kind, flags, stream, length)


@pytest.mark.parametrize(
    ("frame", "fault", "cost"),
    [
        (header(TYPE_DATA, 0, 1, 65_536), None, 1),
        (header(TYPE_DATA, FLAG_FIN, 2), None, 1),
        (header(TYPE_DATA, FLAG_SYN, 1, 10), None, SYN_COST),
        (header(TYPE_WINDOW_UPDATE, FLAG_SYN, 3), None, SYN_COST),
        (header(TYPE_WINDOW_UPDATE, FLAG_ACK, 2), None, 1),
        (header(TYPE_WINDOW_UPDATE, FLAG_RST, 2), None, 1),
        (header(TYPE_PING, FLAG_SYN, 0, 7), None, PING_COST),
        (header(TYPE_PING, FLAG_ACK, 0, 7), None, PING_COST),
        (header(TYPE_GO_AWAY, 0, 0, 4101), None, 1),
        (header(9), Misbehaviour.GARBAGE, 1),
        (header(TYPE_DATA, 0, 1, version=1), Misbehaviour.GARBAGE, 1),
        (header(TYPE_DATA, 16, 1), Misbehaviour.GARBAGE, 1),
        (header(TYPE_DATA), Misbehaviour.GARBAGE, 1),
        (header(TYPE_DATA, 0, 1, 1 << 20), Misbehaviour.OVERSIZE, 1),
        (header(TYPE_WINDOW_UPDATE, FLAG_SYN, 2), Misbehaviour.GARBAGE, 1),
        (header(TYPE_PING), Misbehaviour.GARBAGE, PING_COST),
        (header(TYPE_PING, FLAG_SYN | FLAG_ACK), Misbehaviour.GARBAGE, PING_COST),
        (header(TYPE_GO_AWAY, FLAG_SYN), Misbehaviour.GARBAGE, 1),
    ],
)
def test_frames_from_the_side_that_made_the_connection(frame: bytes, fault: Misbehaviour | None, cost: int) -> None:
    assert check_frame(frame, is_initiator=False) == (fault, cost)


def test_each_end_begins_streams_of_its_own_numbers() -> None:
    odd, even = (header(TYPE_WINDOW_UPDATE, FLAG_SYN, stream) for stream in (1, 2))
    assert (
        check_frame(odd, is_initiator=False)[0] is None
        and check_frame(odd, is_initiator=True)[0] is Misbehaviour.GARBAGE
    )
    assert (
        check_frame(even, is_initiator=True)[0] is None
        and check_frame(even, is_initiator=False)[0] is Misbehaviour.GARBAGE
    )


@given(st.binary(min_size=12, max_size=12), st.booleans())
def test_every_header_is_judged(raw: bytes, is_initiator: bool) -> None:
    fault, cost = check_frame(raw, is_initiator)
    assert cost >= 1 and fault in (None, Misbehaviour.GARBAGE, Misbehaviour.OVERSIZE)


class Connection:
    def __init__(self, source_address: str | None) -> None:
        self.source_address = source_address
        self.kept = 0

    def count_bytes(self) -> int:
        return self.kept


def test_the_fullest_connection_of_the_fullest_place_goes() -> None:
    backlog = BufferBudget(100)
    honest, *crowd = (Connection(source_address) for source_address in ("one", "many", "many", "many"))
    honest.kept = 40
    assert backlog.note(honest, 40) is None
    for connection, kept in zip(crowd, (15, 25, 20), strict=True):
        connection.kept = kept
        assert backlog.note(connection, kept) is None
    assert backlog.size == 100
    crowd[0].kept = 16
    assert backlog.note(crowd[0], 16) is crowd[1]
    assert backlog.note(crowd[1], 25) is crowd[1], "it has to go, even if it takes a while"
    assert backlog.note(crowd[0], 16) is None and backlog.size <= 100


def test_what_was_read_does_not_count() -> None:
    backlog = BufferBudget(100)
    one, other = Connection(None), Connection(None)
    for _ in range(50):
        assert backlog.note(one, 90) is None
        assert backlog.note(other, 90) is None  # ``one`` has been read meanwhile
        assert backlog.size <= 180
    del one
    other.kept = 90
    assert backlog.note(other, 90) is None


def test_circuits_are_no_crowd() -> None:
    backlog = BufferBudget(100)
    circuits = [Connection(None) for _ in range(3)]
    for connection, kept in zip(circuits, (30, 50, 40), strict=True):
        connection.kept = kept
    gone = [backlog.note(connection, connection.kept) for connection in circuits]
    assert gone == [None, None, circuits[1]]
