"""Framing and the credit account of an exchange."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.streams.frames import (
    MAX_FRAME_BYTES,
    MAX_RESET_REASON_BYTES,
    WINDOW_BYTES,
    ExchangeState,
    Frame,
    FrameError,
    FrameReader,
    Kind,
    cost,
)

frames = st.builds(Frame, st.sampled_from(Kind), st.integers(0, 2**32 - 1), st.binary(max_size=MAX_RESET_REASON_BYTES))


@given(st.lists(frames, max_size=8), st.data())
def test_frames_survive_any_cut_of_the_stream(sent: list[Frame], data: st.DataObject) -> None:
    wire = b"".join(frame.encode() for frame in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=8)))
    reader, received = FrameReader(), []
    for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        received += reader.feed(wire[start:end])
    assert received == sent


@given(st.binary(max_size=64))
def test_garbage_is_refused_or_is_frames(garbage: bytes) -> None:
    with suppress(FrameError):
        received = FrameReader().feed(garbage)
        assert garbage.startswith(b"".join(frame.encode() for frame in received))


@pytest.mark.parametrize(
    "header",
    [
        struct.pack(">IBI", MAX_FRAME_BYTES + 1, Kind.DATA, 1),
        struct.pack(">IBI", MAX_RESET_REASON_BYTES + 1, Kind.RESET, 1),
        struct.pack(">IBI", 0, 4, 1),
    ],
    ids=["oversize data", "oversize control", "unknown kind"],
)
def test_bad_headers_are_refused_before_their_payload_arrives(header: bytes) -> None:
    with pytest.raises(FrameError):
        FrameReader().feed(header)


def test_an_oversize_frame_cannot_be_encoded() -> None:
    with pytest.raises(ValueError, match="longer"):
        Frame(Kind.DATA, 1, bytes(MAX_FRAME_BYTES + 1)).encode()


def test_the_window_runs_out_and_is_updated_as_the_reader_takes() -> None:
    sender, receiver = ExchangeState(1), ExchangeState(1)
    payload = bytes(1000)
    count = 0
    while sender.send_window > 0:
        receiver.accept(sender.data(payload))
        count += 1
    assert count == -(-WINDOW_BYTES // cost(payload))
    with pytest.raises(FrameError, match="window"):
        receiver.accept(Frame(Kind.DATA, 1, payload))

    updates = []
    while receiver.take() is not None:
        update = receiver.window_update()
        if update is not None:
            updates.append(update)
            sender.accept(update)
    assert 1 <= len(updates) <= 2
    assert sender.send_window > WINDOW_BYTES // 4
    receiver.accept(sender.data(payload))


def test_empty_frames_are_not_free() -> None:
    sender = ExchangeState(1)
    for _ in range(WINDOW_BYTES // cost(b"")):
        sender.data(b"")
    assert sender.send_window <= 0


def test_credit_that_was_never_used_is_a_breach() -> None:
    with pytest.raises(FrameError):
        ExchangeState(1).accept(Frame(Kind.WINDOW_UPDATE, 1, struct.pack(">I", 1)))
    with pytest.raises(FrameError):
        ExchangeState(1).accept(Frame(Kind.WINDOW_UPDATE, 1, b"\0"))


def test_data_after_end_is_a_breach() -> None:
    state = ExchangeState(1)
    state.accept(Frame(Kind.END, 1))
    with pytest.raises(FrameError, match="end"):
        state.accept(Frame(Kind.DATA, 1, b"more"))
    with pytest.raises(FrameError, match="end"):
        state.accept(Frame(Kind.END, 1))


def test_a_window_update_of_nothing_is_a_breach() -> None:
    state = ExchangeState(1)
    state.data(b"x")
    with pytest.raises(FrameError):
        state.accept(Frame(Kind.WINDOW_UPDATE, 1, bytes(4)))


def test_reset_before_end_fails_but_keeps_what_arrived() -> None:
    state = ExchangeState(1)
    state.accept(Frame(Kind.DATA, 1, b"early"))
    state.accept(Frame(Kind.RESET, 1, b"why"))
    assert (state.take(), state.failure, state.stopped) == (b"early", "why", "why")


def test_reset_after_end_only_stops_the_other_direction() -> None:
    state = ExchangeState(1)
    state.accept(Frame(Kind.END, 1))
    state.accept(Frame(Kind.RESET, 1, b"enough"))
    assert (state.failure, state.stopped) == (None, "enough")


def test_reasons_are_cut_and_need_not_be_utf8() -> None:
    assert len(ExchangeState(1).reset("x" * 1000).payload) == MAX_RESET_REASON_BYTES
    state = ExchangeState(1)
    state.accept(Frame(Kind.RESET, 1, b"\xff"))
    assert state.failure is not None
