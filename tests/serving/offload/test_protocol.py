"""The wire between originator and executor: what passes, what is refused, what is signed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.codec import MAX_INT
from chain.crypto import KeyPair
from chain.exceptions import CodecError
from chain.types.operations import Delivery, Hold, Usage, sign_operation
from serving.accounting.receipts import is_receipt, sign_receipt
from serving.offload.protocol import (
    CHUNK_BYTES,
    MAX_OFFLOAD_MESSAGE_BYTES,
    MAX_OFFLOAD_REASON_BYTES,
    Accepted,
    Completed,
    Declined,
    Failed,
    KeepAlive,
    Message,
    Offer,
    Payment,
    Receipt,
    ResponseChunk,
    ResponseHead,
    Resume,
    cut_reason,
    decode_message,
    encode_message,
    is_signed_delivery,
    sign_delivery,
)

KEY, OTHER = KeyPair(b"1" * 32), KeyPair(b"2" * 32)
CHAIN = bytes(32)
HOLD = Hold(bytes(32), 5, 0, 1, 0, "m", bytes(32), 9)
DELIVERY = Delivery(bytes(32), 5, bytes(32), Usage(1, 2), "stop")
MESSAGES: list[Message] = [
    Offer("/v1/chat/completions", 3, bytes(16), HOLD),
    Accepted(True),
    Declined("busy", 1000),
    Payment(sign_operation(KEY, CHAIN, HOLD)),
    KeepAlive(False),
    ResponseHead(200, "application/json", bytes(16)),
    ResponseChunk(b"x" * CHUNK_BYTES),
    Completed(DELIVERY, bytes(64)),
    Failed("no"),
    Receipt(bytes(64)),
    Resume(bytes(32), 1),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_survives_the_wire(message: Message) -> None:
    frame = encode_message(message)
    assert decode_message(frame) == message and len(frame) <= MAX_OFFLOAD_MESSAGE_BYTES


@pytest.mark.parametrize(
    "message",
    [
        ResponseChunk(b""),
        ResponseChunk(b"x" * (CHUNK_BYTES + 1)),
        ResponseHead(199, "", bytes(16)),
        ResponseHead(600, "", bytes(16)),
        ResponseHead(200, "x" * 129, bytes(16)),
        Offer("", 3, bytes(16), HOLD),
        Offer("/", 0, bytes(16), HOLD),
        Offer("/", 1 << 23, bytes(16), HOLD),
        Offer("/", 3, bytes(15), HOLD),
        Declined("x" * 257, 0),
        Receipt(bytes(63)),
        Completed(replace(DELIVERY, finish_reason=""), bytes(64)),
        Completed(replace(DELIVERY, amount=-1), bytes(64)),
        Completed(replace(DELIVERY, amount=MAX_INT + 1), bytes(64)),
    ],
    ids=lambda message: str(message)[:40],
)
def test_out_of_bounds_is_never_sent(message: Message) -> None:
    with pytest.raises(CodecError):
        encode_message(message)


@pytest.mark.parametrize(
    "frame", [b"", b"\x91", b"\x91\x91\x09", b"\x91\xc0", b"\x91\x91\x63", b"x" * (MAX_OFFLOAD_MESSAGE_BYTES + 1)]
)
def test_nonsense_is_refused(frame: bytes) -> None:
    with pytest.raises(CodecError):
        decode_message(frame)


@given(st.sampled_from(MESSAGES), st.data())
def test_a_damaged_frame_is_refused_or_is_another_message(message: Message, data: st.DataObject) -> None:
    frame = bytearray(encode_message(message)[:400])
    position = data.draw(st.integers(0, len(frame) - 1))
    frame[position] ^= data.draw(st.integers(1, 255))
    try:
        decoded = decode_message(bytes(frame))
    except CodecError:
        return
    assert decoded != message and encode_message(decoded) == bytes(frame)


@given(st.text() | st.text(alphabet="模é\ud800x"))
def test_a_cut_reason_fits(text: str) -> None:
    cut = cut_reason(text)
    assert len(cut.encode()) <= MAX_OFFLOAD_REASON_BYTES
    assert decode_message(encode_message(Failed(cut))) == Failed(cut)
    if text.isascii():
        assert cut == text[:MAX_OFFLOAD_REASON_BYTES]


def test_signatures_are_good_for_their_purpose_chain_and_content_alone() -> None:
    final = Completed(DELIVERY, sign_delivery(KEY, CHAIN, DELIVERY))
    assert is_signed_delivery(KEY.public_key, CHAIN, final)
    assert not is_signed_delivery(OTHER.public_key, CHAIN, final)
    assert not is_signed_delivery(KEY.public_key, b"1" * 32, final)
    assert not is_signed_delivery(KEY.public_key, CHAIN, replace(final, delivery=replace(DELIVERY, amount=6)))
    receipt = sign_receipt(KEY, CHAIN, DELIVERY)
    assert is_receipt(KEY.public_key, CHAIN, DELIVERY, receipt)
    assert not is_receipt(KEY.public_key, CHAIN, DELIVERY, final.signature)  # the executor's own is no receipt
    assert not is_signed_delivery(KEY.public_key, CHAIN, replace(final, signature=receipt))
