"""Operations: everything that an account can ask of the ledger.

An operation is a plain record; :class:`SignedOperation` adds the account that asks and its signature. Operations with a
``nonce`` are executed in the order of the account's counter, pay their fee even when they fail, and can never be
replayed. Those without one (``Hold``, ``Capture``, ``Evidence``, …) name something that happens at most once,
so that a busy gateway never waits for its own counter; they are included only if they succeed. The rules themselves are
in :mod:`chain.transition.operations`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Annotated, Self

from chain import crypto
from chain.codec import MAX_RECORD_BYTES, Amount, Bounds, Hash, ModelName, Natural, PublicKey, Record, Signature
from chain.types.checks import CheckOperation, DeclaredIdentity
from chain.types.duels import DeclaredJudge, DuelOperation
from chain.types.votes import Vote

MAX_OPERATION_BYTES = 4 * 1024
"""Largest encoding of a signed operation other than a capture."""

MAX_CAPTURE_BYTES = 32 * 1024
"""Largest encoding of a signed capture, which may name many holds."""

MAX_CAPTURE_ITEMS = 64
"""Deliveries in one capture."""

MAX_MODELS = 16
"""Models that one account serves."""

REGISTRATION_SALT_BYTES = 16
"""Length of the salt that is the proof of work of a registration."""


@dataclass(frozen=True, slots=True)
class Transfer(Record):
    """Move ``amount`` from the signer's available credit to the recipient's."""

    TAG = 1
    nonce: Natural
    recipient: PublicKey
    amount: Amount
    memo: Annotated[bytes, Bounds(0, 64)] = b""


@dataclass(frozen=True, slots=True)
class Bond(Record):
    """Move available credit to the bond that stands behind the signer's service."""

    TAG = 2
    nonce: Natural
    amount: Amount


@dataclass(frozen=True, slots=True)
class Unbond(Record):
    """Take credit out of the bond; it stays slashable until its release epoch."""

    TAG = 3
    nonce: Natural
    amount: Amount


@dataclass(frozen=True, slots=True)
class Withdraw(Record):
    """Make available whatever has finished unbonding."""

    TAG = 4
    nonce: Natural


@dataclass(frozen=True, slots=True)
class Serve(Record):
    """Declare the models that the signer's bond stands behind, sorted; none leaves the executor lottery at once.

    Declare also how the signer judges duels, if it does, and the identities of some of the models, sorted by model.
    """

    TAG = 5
    nonce: Natural
    models: Annotated[tuple[ModelName, ...], Bounds(0, MAX_MODELS)]
    judge: DeclaredJudge | None = None
    identities: Annotated[tuple[DeclaredIdentity, ...], Bounds(0, MAX_MODELS)] = ()


@dataclass(frozen=True, slots=True)
class Enroll(Record):
    """Become a validator with the whole bond, from the epoch after next on.

    ``commitment`` opens the signer's hash chain number ``hash_chain``, a number for its own use
    (:mod:`chain.state.beacon`).
    """

    TAG = 6
    nonce: Natural
    commitment: Hash
    hash_chain: Natural


@dataclass(frozen=True, slots=True)
class Retire(Record):
    """Stop being a validator, from the epoch after next on. The bond stays."""

    TAG = 7
    nonce: Natural


@dataclass(frozen=True, slots=True)
class Unjail(Record):
    """Be a validator again after having been jailed, from the epoch after next on."""

    TAG = 8
    nonce: Natural


@dataclass(frozen=True, slots=True)
class Recommit(Record):
    """Go on with another hash chain, from the epoch after next on, before the one in use runs out."""

    TAG = 9
    nonce: Natural
    commitment: Hash
    hash_chain: Natural


@dataclass(frozen=True, slots=True)
class Hold(Record):
    """Set ``amount`` aside for one request to one executor.

    Valid only if ``payee`` is number ``attempt`` of the executor lottery for (signer, ``seq``), in the serving period
    that began with ``round``; unique by (signer, ``seq``, ``attempt``). ``request_digest`` is salted; ``deadline`` is
    chain time in ms, after which anyone may release the hold.
    """

    TAG = 10
    payee: PublicKey
    amount: Amount
    round: Natural
    seq: Natural
    attempt: Natural
    model: ModelName
    request_digest: Hash
    deadline: Natural


@dataclass(frozen=True, slots=True)
class Usage(Record):
    """The usage that an answer is billed by: bytes of the request's body, and of the content delivered (text, in
    UTF-8)."""

    prompt_bytes: Natural
    completion_bytes: Natural


FINISH_CANCELLED = "cancelled"
"""Finish reason of an answer that its user broke off."""


@dataclass(frozen=True, slots=True)
class Delivery(Record):
    """An executor's statement of what it delivered for a hold, with the amount that it charges.

    The executor signs it (domain ``delivery``) at the end of its answer; the payer's signature over the same bytes
    (domain ``receipt``) accepts it. ``transcript_digest`` commits to the transcript of the answer, if there is one,
    before anyone knows that it is checked; the payer cannot see whether it is true.
    """

    hold: Hash
    amount: Amount
    response_digest: Hash
    usage: Usage
    finish_reason: Annotated[str, Bounds(1, 32)]
    transcript_digest: Hash | None = None


@dataclass(frozen=True, slots=True)
class CaptureItem(Record):
    """One delivery to be paid, with the payer's receipt where there is one."""

    delivery: Delivery
    receipt: Signature | None


@dataclass(frozen=True, slots=True)
class Capture(Record):
    """Collect what deliveries earned, by their payee.

    With a receipt a capture pays at once, without one after a grace time; an amount of 0 is a refund.
    """

    TAG = 11
    items: Annotated[tuple[CaptureItem, ...], Bounds(1, MAX_CAPTURE_ITEMS)]


@dataclass(frozen=True, slots=True)
class Release(Record):
    """Return an uncaptured hold to its payer; anyone may ask once its deadline has passed."""

    TAG = 12
    hold: Hash


@dataclass(frozen=True, slots=True)
class Dispute(Record):
    """Refuse an unreceipted capture, by the payer: its amount goes to the treasury, and as much of the payee's bond."""

    TAG = 13
    hold: Hash


@dataclass(frozen=True, slots=True)
class Evidence(Record):
    """Two votes that no honest validator signs both; the one with the smaller encoding first. Anyone may show them."""

    TAG = 14
    first: Vote
    second: Vote


@dataclass(frozen=True, slots=True)
class Register(Record):
    """Ask for a newcomer's first bond, to serve ``models`` (sorted); ``salt`` is the proof
    (:mod:`chain.transition.validators.registration`).

    It costs no fee, since a newcomer has nothing.
    """

    TAG = 15
    epoch: Natural
    salt: Annotated[bytes, Bounds(REGISTRATION_SALT_BYTES, REGISTRATION_SALT_BYTES)]
    models: Annotated[tuple[ModelName, ...], Bounds(0, MAX_MODELS)]


NoncedOperation = Transfer | Bond | Unbond | Withdraw | Serve | Enroll | Retire | Unjail | Recommit
OneTimeOperation = Hold | Capture | Release | Dispute | Evidence | Register | DuelOperation | CheckOperation
Operation = NoncedOperation | OneTimeOperation


_ARRAY_HEADER_BYTES = 1
_SIGNED_TAIL_BYTES = 2 + 32 + 2 + 64
"""Length of signer and signature at the end of an encoded signed operation: two byte strings, each behind two bytes."""


@dataclass(frozen=True)
class SignedOperation(Record):
    """An operation, the account that asks for it, and that account's signature."""

    operation: Operation
    signer: PublicKey
    signature: Signature

    @classmethod
    def decode(cls, raw: bytes, max_size: int = MAX_RECORD_BYTES) -> Self:
        signed = super().decode(raw, max_size)
        vars(signed)["encoded"] = bytes(raw)  # what was decoded is canonical
        return signed

    @cached_property
    def encoded(self) -> bytes:
        """Canonical bytes, computed once; fees are by their length."""
        return self.encode()

    @cached_property
    def id(self) -> bytes:
        """Hash of everything but the signature."""
        return crypto.hash_bytes("operation", self.signer, self._encoded_operation)

    @property
    def _encoded_operation(self) -> bytes:
        """Canonical bytes of the operation: those between the header of the array, and signer and signature."""
        return self.encoded[_ARRAY_HEADER_BYTES:-_SIGNED_TAIL_BYTES]

    def signature_check(self, chain_id: bytes) -> crypto.SignatureCheck:
        """The signature check this operation stands on."""
        return crypto.SignatureCheck(self.signer, "operation", chain_id, self._encoded_operation, self.signature)


def sign_operation(key: crypto.KeyPair, chain_id: bytes, operation: Operation) -> SignedOperation:
    """Sign ``operation`` on the given chain."""
    return SignedOperation(operation, key.public_key, key.sign("operation", chain_id, operation.encode()))


def compute_operation_id(operation: Operation, signer: bytes) -> bytes:
    """Identifier of an operation of an account."""
    return crypto.hash_bytes("operation", signer, operation.encode())


@lru_cache(maxsize=1024)  # a hold is looked at some ten times on its way through a node
def compute_hold_id(payer: bytes, hold: Hold) -> bytes:
    """Identifier of a hold: that of the operation, so that deliveries and receipts are bound to its terms."""
    return compute_operation_id(hold, payer)


def compute_digest(salt: bytes, body: bytes) -> bytes:
    """Salted digest of a request or response body; the random 16-byte salt keeps a guessable text from lookup.

    The text is hashed by itself first: so who knows two bodies can show that they are the same, or that a digest with
    another salt is of the same text, without the text.
    """
    return finish_digest(salt, crypto.start_hash("text", body))


def start_digest() -> hashlib.blake2b:
    """The digest of :func:`compute_digest` before any byte of the body, for a body that comes in pieces."""
    return crypto.start_hash("text")


def finish_digest(salt: bytes, text: hashlib.blake2b) -> bytes:
    """The digest once all of the body went into what :func:`start_digest` began."""
    return crypto.hash_bytes("body", salt, text.digest())
