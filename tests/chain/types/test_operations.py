"""Operations as records: their identity, their size, and what is refused whatever the state."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chain.exceptions import InvalidOperation
from chain.parameters.parameters import Parameters
from chain.transition.fees import compute_fee
from chain.transition.operations import check_form
from chain.types.operations import (
    MAX_CAPTURE_BYTES,
    MAX_CAPTURE_ITEMS,
    MAX_OPERATION_BYTES,
    Capture,
    Hold,
    Serve,
    SignedOperation,
    Transfer,
    compute_digest,
    compute_hold_id,
    compute_operation_id,
)
from tests.support.chain_builder import MODEL, PARAMETERS, Chain
from tests.support.keys import make_key

CHAIN = Chain()
USER, OTHER = CHAIN.users


def test_the_id_covers_everything_but_the_signature() -> None:
    signed = CHAIN.transfer(USER, OTHER, 5)
    operation = signed.operation
    assert isinstance(operation, Transfer)
    assert signed.id == compute_operation_id(operation, USER.public_key) == replace(signed, signature=bytes(64)).id
    others = [
        CHAIN.transfer(USER, OTHER, 6),
        CHAIN.transfer(USER, USER, 5),
        CHAIN.transfer(USER, OTHER, 5, nonce=1),
        CHAIN.transfer(OTHER, OTHER, 5),
        CHAIN.sign(USER, replace(operation, memo=b"x")),
        CHAIN.bond(USER, 5),
        CHAIN.unbond(USER, 5),
    ]
    assert len({signed.id, *(other.id for other in others)}) == 8
    assert signed.encoded == signed.encode() and SignedOperation.decode(signed.encoded) == signed
    received = SignedOperation.decode(signed.encoded)
    assert received.id == signed.id and received.signature_check(bytes(32)).message == operation.encode()


def test_the_id_of_a_hold_commits_to_its_terms() -> None:
    hold = Hold(OTHER.public_key, 1_000, 0, 1, 0, MODEL, bytes(32), 10_000)
    others = [
        replace(hold, payee=USER.public_key),
        replace(hold, amount=999),
        replace(hold, round=1),
        replace(hold, seq=2),
        replace(hold, attempt=1),
        replace(hold, model="another"),
        replace(hold, request_digest=b"1" * 32),
        replace(hold, deadline=10_001),
    ]
    ids = {compute_hold_id(payer.public_key, each) for payer in (USER, OTHER) for each in (hold, *others)}
    assert len(ids) == 18 and CHAIN.sign(USER, hold).id in ids


def test_digests_are_salted() -> None:
    assert (
        compute_digest(bytes(16), b"text") != compute_digest(b"\1" * 16, b"text") != compute_digest(b"\1" * 16, b"texT")
    )


def test_transfers_to_unusable_keys_are_malformed() -> None:
    for key in (bytes(32), b"\x01" + bytes(31), b"\xff" * 32):
        with pytest.raises(InvalidOperation, match="recipient"):
            check_form(CHAIN.transfer(USER, key, 5))


def test_models_are_sorted_and_distinct() -> None:
    check_form(CHAIN.serve(USER, "a", "b"))
    check_form(CHAIN.serve(USER))
    for models in (("b", "a"), ("a", "a"), ("a", "b", "a")):
        with pytest.raises(InvalidOperation, match="sorted"):
            check_form(CHAIN.serve(USER, *models))


def test_a_capture_names_each_hold_once() -> None:
    one, two = CHAIN.delivery(USER, 0), CHAIN.delivery(USER, 1)
    check_form(CHAIN.capture(OTHER, one, two))
    for items in ((one, one), (one, two, one), (one, replace(one, amount=1))):
        with pytest.raises(InvalidOperation, match="twice"):
            check_form(CHAIN.capture(OTHER, *items))


def test_the_largest_capture_and_the_largest_serve_fit() -> None:
    items = [
        CHAIN.receipt(USER, replace(CHAIN.delivery(USER, n), finish_reason="x" * 32)) for n in range(MAX_CAPTURE_ITEMS)
    ]
    capture = CHAIN.capture(OTHER, *items)
    check_form(capture)
    assert MAX_OPERATION_BYTES < len(capture.encoded) <= MAX_CAPTURE_BYTES
    serve = CHAIN.serve(USER, *[f"{number:02}" + "m" * 126 for number in range(16)])
    check_form(serve)
    assert len(serve.encoded) <= MAX_OPERATION_BYTES


def test_operations_are_limited_in_size() -> None:
    signed = CHAIN.transfer(USER, OTHER, 5)
    large = replace(signed)
    large.__dict__["encoded"] = bytes(MAX_OPERATION_BYTES + 1)  # no field allows as much today
    with pytest.raises(InvalidOperation, match="4097 bytes"):
        check_form(large)
    capture = replace(CHAIN.capture(OTHER, CHAIN.delivery(USER, 0)))
    capture.__dict__["encoded"] = bytes(MAX_OPERATION_BYTES + 1)
    check_form(capture)
    capture.__dict__["encoded"] = bytes(MAX_CAPTURE_BYTES + 1)
    with pytest.raises(InvalidOperation, match="more than"):
        check_form(capture)


@pytest.mark.parametrize("per_byte", [0, 1, 7])
def test_fees_are_by_the_byte_and_grow_with_the_attempt(per_byte: int) -> None:
    chain = Chain(parameters=replace(PARAMETERS, fee_per_byte=per_byte))
    transfer = chain.transfer(USER, OTHER, 5)
    assert compute_fee(chain.genesis, transfer) == per_byte * len(transfer.encoded)
    for attempt in range(3):
        hold = chain.hold(USER, 0, attempt)
        assert compute_fee(chain.genesis, hold) == per_byte * len(hold.encoded) * (1 + attempt)


def test_a_hold_and_its_capture_are_small() -> None:
    """The design counts on about 0.6 KB for the two."""
    chain = Chain(parameters=replace(Parameters(), min_validator_bond=1_000))
    hold = chain.hold(USER, 300, amount=2_000_000)
    operation = hold.operation
    assert isinstance(operation, Hold) and operation.model == MODEL
    payee = chain.keys[operation.payee]
    capture = chain.capture(payee, chain.receipt(USER, chain.delivery(USER, 300, amount=1_000_000)))
    assert isinstance(capture.operation, Capture)
    assert len(hold.encoded) + len(capture.encoded) < 640


def test_records_do_not_mix_kinds() -> None:
    assert Serve(0, ()).encode() != Transfer(0, make_key("a").public_key, 0).encode()
    tags = [kind.TAG for kind in (Transfer, Serve, Hold, Capture)]
    assert len(set(tags)) == 4
