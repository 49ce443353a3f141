"""The wire between originator and executor: one exchange of ``/wwwserve/offer/4`` per offloaded request.

::

    originator                                executor
    Offer, body frames…            ──▶
                                   ◀──        Accepted  (and it starts)   |  Declined, end
    Payment (the signed hold)      ──▶
                                   ◀──        KeepAlive…, ResponseHead, ResponseChunk…, Completed  |  Failed, end
    Receipt, end                   ──▶

An originator that loses the connection in the middle of an answer begins another exchange with ``Resume``. The executor
then sends the rest (ResponseChunk…, Completed as above), or Declined.

The offer carries the request and the terms of the hold, unsigned, so that a candidate answers in one round trip and
works while the payment becomes final.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from chain.codec import Bounds, Hash, Natural, Record, Signature
from chain.crypto import KeyPair, verify
from chain.types.operations import Delivery, Hold, SignedOperation

OFFLOAD_PROTOCOL = "/wwwserve/offer/4"
"""Name of the protocol; its number grows when a message changes."""
CHUNK_BYTES = 64 * 1024
"""Most body bytes in one frame."""
MAX_OFFLOAD_MESSAGE_BYTES = CHUNK_BYTES + 4 * 1024
"""Longest encoded message."""
MAX_REQUEST_BYTES = 4 << 20
"""Longest body of a request."""
MAX_ANSWER_BYTES = 32 << 20
"""Longest body of an answer."""
MAX_OFFLOAD_REASON_BYTES = 256
"""Most bytes of a reason, in UTF-8."""

DIGEST_SALT_BYTES = 16
"""Size of the salt of a digest."""

Salt = Annotated[bytes, Bounds(DIGEST_SALT_BYTES, DIGEST_SALT_BYTES)]
Reason = Annotated[str, Bounds(0, MAX_OFFLOAD_REASON_BYTES)]


@dataclass(frozen=True, slots=True)
class Offer(Record):
    """A request looking for an executor; ``size`` bytes of body follow in frames of their own."""

    TAG = 1
    path: Annotated[str, Bounds(1, 64)]
    size: Annotated[int, Bounds(1, MAX_REQUEST_BYTES)]
    salt: Salt
    hold: Hold


@dataclass(frozen=True, slots=True)
class Accepted(Record):
    """The executor has begun, or has put the request into its queue."""

    TAG = 2
    queued: bool


@dataclass(frozen=True, slots=True)
class Declined(Record):
    """The executor does not want this request; ``retry_after`` (ms, 0 unknown) hints at when it might."""

    TAG = 3
    reason: Reason
    retry_after: Natural


@dataclass(frozen=True, slots=True)
class Payment(Record):
    """The signed hold, on the terms of the offer."""

    TAG = 4
    hold: SignedOperation


@dataclass(frozen=True, slots=True)
class KeepAlive(Record):
    """A sign of life while there is nothing to send."""

    TAG = 5
    queued: bool


@dataclass(frozen=True, slots=True)
class ResponseHead(Record):
    """Status and content type of the answer, and the salt of its digest.

    With the salt first, the originator computes the digest as the answer comes, and need not keep it.
    """

    TAG = 6
    status: Annotated[int, Bounds(200, 599)]
    content_type: Annotated[str, Bounds(0, 128)]
    salt: Salt


@dataclass(frozen=True, slots=True)
class ResponseChunk(Record):
    """The next bytes of the answer, after transfer decoding."""

    TAG = 7
    data: Annotated[bytes, Bounds(1, CHUNK_BYTES)]


@dataclass(frozen=True, slots=True)
class Completed(Record):
    """The answer is complete: what was delivered, under the executor's signature."""

    TAG = 8
    delivery: Delivery
    signature: Signature


@dataclass(frozen=True, slots=True)
class Failed(Record):
    """The executor gives up; nothing is owed."""

    TAG = 9
    reason: Reason


@dataclass(frozen=True, slots=True)
class Receipt(Record):
    """The originator's signature over the delivery: it may be captured at once."""

    TAG = 10
    signature: Signature


@dataclass(frozen=True, slots=True)
class Resume(Record):
    """The originator of ``hold`` is back: it has ``received`` bytes of the answer's body and wants the rest."""

    TAG = 11
    hold: Hash
    received: Annotated[int, Bounds(1, MAX_ANSWER_BYTES)]


Message = (
    Offer
    | Accepted
    | Declined
    | Payment
    | KeepAlive
    | ResponseHead
    | ResponseChunk
    | Completed
    | Failed
    | Receipt
    | Resume
)


@dataclass(frozen=True, slots=True)
class Envelope(Record):
    """One frame of the protocol."""

    message: Message


def cut_reason(text: str) -> str:
    """As much of ``text`` as fits into a reason."""
    return text.encode(errors="replace")[:MAX_OFFLOAD_REASON_BYTES].decode(errors="ignore")


def encode_message(message: Message) -> bytes:
    """The frame of a message."""
    return Envelope(message).encode()


def decode_message(frame: bytes) -> Message:
    """The message in a frame.

    Raises:
        CodecError: it is not one.
    """
    return Envelope.decode(frame, MAX_OFFLOAD_MESSAGE_BYTES).message


def sign_delivery(key: KeyPair, chain_id: bytes, delivery: Delivery) -> bytes:
    """The executor's signature over what it delivered."""
    return key.sign("delivery", chain_id, delivery.encode())


def is_signed_delivery(executor: bytes, chain_id: bytes, final: Completed) -> bool:
    """Whether the delivery is signed by its executor."""
    return verify(executor, "delivery", chain_id, final.delivery.encode(), final.signature)
