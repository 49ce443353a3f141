"""Messages behind their length: read as they were written, however they arrive, and within bounds."""

from __future__ import annotations

from contextlib import suppress

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from libp2p.relay.circuit_v2.pb import circuit_pb2 as pb
from libp2p.utils.varint import encode_uvarint, encode_varint_prefixed

from p2p.length_prefixed import (
    MAX_PREFIXED_RECORD_BYTES,
    VARINT,
    LengthPrefixedReader,
    MalformedMessage,
    MessageStream,
    decode_varint,
    encode_varint,
    receive_record,
    send_record,
)
from p2p.nat.dial_back import DialBack
from p2p.network import NetworkError
from p2p.simulation.runtime import SimulatedClock
from tests.support.keys import make_key

LIMIT = 1 << 20
TIMEOUT_S = 30.0


# Varints


@given(st.integers(0, (1 << 35) - 1), st.binary(max_size=3), st.binary(max_size=3))
def test_varints_are_those_of_the_library(value: int, before: bytes, after: bytes) -> None:
    encoded = encode_varint(value)
    assert encoded == encode_uvarint(value)
    assert decode_varint(before + encoded + after, len(before)) == (value, len(before + encoded))
    assert decode_varint(encoded[:-1]) is None


def test_a_varint_has_an_end() -> None:
    with pytest.raises(MalformedMessage):
        decode_varint(b"\xff" * 5)


# The reader


class Source:
    """Gives what it is fed."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = list(chunks)
        self.buffered = 0

    async def read(self, max_bytes: int) -> bytes:
        if not self.chunks:
            await trio.sleep_forever()
        return self.chunks.pop(0)

    def note_buffered(self, change: int) -> None:
        self.buffered += change


@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(1, 50))
def test_messages_come_out_as_they_went_in_however_they_are_cut(messages: list[bytes], size: int) -> None:
    raw = b"".join(encode_varint_prefixed(message) for message in messages)
    source = Source(*(raw[start : start + size] for start in range(0, len(raw), size)), b"")
    reader = LengthPrefixedReader(source.read, VARINT, LIMIT, TIMEOUT_S, source.note_buffered)

    async def main() -> list[bytes]:
        out = []
        while (message := await reader.receive()) is not None:
            out.append(message)
        return out

    assert trio.run(main) == messages
    assert source.buffered == 0


@pytest.mark.trio
async def test_a_message_that_is_too_long_is_not_waited_for() -> None:
    reader = LengthPrefixedReader(Source(encode_uvarint(LIMIT + 1)).read, VARINT, LIMIT, TIMEOUT_S)
    with pytest.raises(MalformedMessage):
        await reader.receive()


@pytest.mark.trio
async def test_a_message_has_to_come_to_its_end(simulated_clock: SimulatedClock) -> None:
    source = Source(encode_varint_prefixed(b"whole") + encode_uvarint(1000) + b"a part")
    reader = LengthPrefixedReader(source.read, VARINT, LIMIT, TIMEOUT_S, source.note_buffered)
    assert await reader.receive() == b"whole"
    assert source.buffered == 2 + len(b"a part")
    began = trio.current_time()
    with pytest.raises(MalformedMessage):
        await reader.receive()
    assert trio.current_time() - began == pytest.approx(TIMEOUT_S)
    reader.close()
    assert source.buffered == 0


@pytest.mark.trio
async def test_silence_between_messages_may_last(simulated_clock: SimulatedClock) -> None:
    reader = LengthPrefixedReader(Source(encode_varint_prefixed(b"whole")).read, VARINT, LIMIT, TIMEOUT_S)
    assert await reader.receive() == b"whole"
    with trio.move_on_after(10 * TIMEOUT_S) as patience:
        await reader.receive()
    assert patience.cancelled_caught


# Protobuf messages and records


class Canned:
    """A stream from which given bytes come, in pieces."""

    peer = make_key(1).public_key

    def __init__(self, data: bytes, size: int) -> None:
        self.pieces = [data[start : start + size] for start in range(0, len(data), size)]
        self.sent = b""

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await trio.lowlevel.checkpoint()
        return self.pieces.pop(0) if self.pieces else b""

    async def send(self, data: bytes) -> None:
        self.sent += data

    async def close(self) -> None: ...

    async def reset(self) -> None: ...


@given(st.binary(max_size=300), st.integers(1, 50))
def test_whatever_comes_is_a_message_or_a_network_error(raw: bytes, size: int) -> None:
    async def main() -> None:
        with suppress(NetworkError):
            assert isinstance(await MessageStream(Canned(raw, size)).receive_message(pb.HopMessage), pb.HopMessage)

    trio.run(main)


@given(st.binary(max_size=200), st.integers(1, 300))
def test_bytes_behind_a_message_are_not_lost(rest: bytes, size: int) -> None:
    async def main() -> None:
        out = Canned(b"", 1)
        message = pb.HopMessage(type=pb.HopMessage.CONNECT, peer=pb.PeerId(id=bytes(150)))
        await MessageStream(out).send_message(message)
        stream = MessageStream(Canned(out.sent + rest, size))
        assert await stream.receive_message(pb.HopMessage) == message
        received = b""
        while data := await stream.receive(7):
            received += data
        assert received == rest

    trio.run(main)


def test_a_record_has_nothing_behind_it_and_a_bounded_length() -> None:
    async def main() -> None:
        out = Canned(b"", 1)
        await send_record(out, DialBack((4001, 4002)))
        for size in (1, 100):
            assert DialBack.decode(await receive_record(Canned(out.sent, size))) == DialBack((4001, 4002))
        with pytest.raises(MalformedMessage):
            await receive_record(Canned(out.sent + b"x", 100))
        with pytest.raises(MalformedMessage):
            await receive_record(Canned((MAX_PREFIXED_RECORD_BYTES + 1).to_bytes(2, "big"), 100))
        with pytest.raises(NetworkError, match="ended"):
            await receive_record(Canned(out.sent[:-1], 100))

    trio.run(main)
