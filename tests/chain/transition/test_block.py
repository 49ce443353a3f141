"""Blocks: a valid one passes everywhere, and every single thing that can be wrong with one is named.

Forged blocks are signed again by their proposer, so that only the rule in question can catch them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from chain.crypto import hash_bytes
from chain.exceptions import InvalidBlock, InvalidCertificate
from chain.merkle.list import EMPTY_ROOT
from chain.state.state import State, compute_supply
from chain.transition.block import (
    Transition,
    apply_block,
    build_block,
    get_signature_checks,
    state_transition,
    verify_finality,
)
from chain.transition.epochs import get_epoch, get_last_height
from chain.types.blocks import (
    MAX_BLOCK_BYTES,
    MAX_NULLIFICATIONS,
    NO_REVEAL,
    Block,
    Body,
    Header,
    sign_block,
    sign_proposal,
)
from chain.types.operations import SignedOperation, Transfer
from chain.types.votes import NO_BLOCK, Certificate, VoteKind
from tests.support.chain_builder import MODEL, PARAMETERS, Chain
from tests.support.keys import make_key

OTHER = hash_bytes("test other")


def make_chain() -> Chain:
    """Two blocks high, with two views nullified before the second."""
    chain = Chain()
    chain.append()
    chain.append([chain.transfer(chain.users[0], chain.users[1], 5)], skipped=2)
    return chain


def resign(chain: Chain, block: Block, *, body: Body | None = None, **fields: Any) -> Block:
    """The block with header fields or body replaced, its body root set right, signed by the proposer that it names."""
    body = body or block.body
    header = replace(block.header, **{"body_root": body.root, **fields})
    return sign_block(chain.keys.get(header.proposer, make_key("stranger")), header, body)


def refuse(chain: Chain, block: Block) -> InvalidBlock:
    """The error of a block on the head of a chain."""
    with pytest.raises(InvalidBlock) as caught:
        state_transition(chain.genesis, chain.head, chain.state, Block.decode(block.encoded))
    return caught.value


def test_a_valid_chain_across_epochs() -> None:
    chain = Chain()
    for number in range(14):
        chain.append([chain.transfer(chain.users[0], chain.users[1], number)], skipped=number % 3)
        assert compute_supply(chain.state) == chain.state.totals.supply == chain.genesis.supply
        assert chain.head.height == chain.state.history.count == number + 1
    assert chain.head.epoch == 3
    views = [(block.header.epoch, block.header.view) for block in chain.blocks]
    assert views == sorted(views) and views[4] == (1, 2)  # views begin again at 1, and one of them was skipped
    assert chain.account(chain.users[1]).available == 1_000_000 + sum(range(14))


def test_building_and_checking_agree_with_everything_in_a_block() -> None:
    chain = Chain(available=5_000)
    user, other = chain.users
    chain.append([chain.hold(user, 0, amount=1_000)])
    payee = chain.executor(user, 0)
    operations = [
        chain.transfer(user, other, 10),
        chain.transfer(user, other, 1_000_000, nonce=1),  # fails, and pays
        chain.transfer(user, other, 1, nonce=7),  # left out
        chain.capture(payee, chain.receipt(user, chain.delivery(user, 0, amount=600))),
        chain.capture(payee, chain.receipt(user, chain.delivery(user, 0, amount=600))),  # left out: captured already
        chain.serve(payee, MODEL, "other"),  # left out: unsorted
    ]
    block, transition, rejected = chain.propose(operations)
    assert [signed for signed, _ in rejected] == [operations[2], operations[4], operations[5]]
    assert all(reason for _, reason in rejected)
    assert block.body.operations == (operations[0], operations[1], operations[3])
    assert [failure is None for failure in transition.failures] == [True, False, True]
    chain.accept(block, transition)


def test_transition_changes_lead_from_one_state_to_the_next() -> None:
    chain = Chain()
    for _ in range(9):
        block, transition, _ = chain.propose([chain.transfer(chain.users[0], chain.users[1], 5)])
        assert chain.state.update(transition.changes).root == transition.state.root == block.header.state_root
        reloaded = State.load({leaf.key: leaf.encoded for leaf in transition.state.entries()})
        assert reloaded.root == transition.state.root
        chain.accept(block, transition)


FORGERIES: dict[str, Callable[[Header], Any]] = {
    "version": lambda header: header.version + 1,
    "chain_id": lambda header: OTHER,
    "epoch": lambda header: header.epoch + 1,
    "height": lambda header: header.height + 1,
    "view": lambda header: 1,
    "parent_id": lambda header: OTHER,
    "timestamp": lambda header: header.timestamp - 1_000,
    "chain_time": lambda header: header.chain_time + 1,
    "proposer": lambda header: make_key("stranger").public_key,
    "body_root": lambda header: OTHER,
    "state_root": lambda header: OTHER,
    "history_root": lambda header: OTHER,
    "validators_hash": lambda header: OTHER,
    "next_validators_hash": lambda header: OTHER,
    "beacon_reveal": lambda header: OTHER,
}


def test_the_forgeries_cover_the_header() -> None:
    assert set(FORGERIES) == set(Header.__dataclass_fields__)


@pytest.mark.parametrize("field", FORGERIES)
def test_a_forged_header_field_is_named(field: str) -> None:
    chain = make_chain()
    block, transition, _ = chain.propose([chain.transfer(chain.users[0], chain.users[1], 5)])
    error = refuse(chain, resign(chain, block, **{field: FORGERIES[field](block.header)}))
    assert error.field == field and error.reason
    chain.accept(resign(chain, block), transition)  # nothing else was wrong with it


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 0),
        ("height", 0),
        ("height", 2),
        ("view", 0),
        ("view", 4),  # the parent's own
        ("state_root", EMPTY_ROOT),
        ("validators_hash", bytes(32)),
        ("beacon_reveal", b"\xff" * 32),
    ],
)
def test_more_forged_fields(field: str, value: Any) -> None:
    chain = make_chain()
    assert chain.head.view == 4
    block, _, _ = chain.propose()
    assert refuse(chain, resign(chain, block, **{field: value})).field == field


def test_timestamps_grow_strictly() -> None:
    chain = make_chain()
    block, _, _ = chain.propose()
    for timestamp in (0, chain.head.timestamp - 1, chain.head.timestamp):
        assert refuse(chain, resign(chain, block, timestamp=timestamp)).field == "timestamp"
    chain.accept(*chain.propose(elapsed=1)[:2])
    # A proposer whose clock is behind the parent's still makes a valid block.
    chain.accept(*chain.propose(elapsed=-5_000)[:2])
    assert chain.head.timestamp == chain.blocks[-2].header.timestamp + 1


@pytest.mark.parametrize(
    ("elapsed", "grown"), [(1, 1), (9_999, 9_999), (10_000, 10_000), (10_001, 10_000), (10**12, 10_000)]
)
def test_chain_time_grows_with_the_clock_by_at_most_the_idle_beat(elapsed: int, grown: int) -> None:
    chain = make_chain()
    before = chain.head.chain_time
    block, transition, _ = chain.propose(elapsed=elapsed)
    assert block.header.chain_time == before + grown
    for wrong in (before, before + grown + 1, before + grown - 1):
        error = refuse(chain, resign(chain, block, chain_time=wrong))
        assert error.field == "chain_time"
    chain.accept(block, transition)


def test_the_signature_is_the_proposers() -> None:
    chain = make_chain()
    block, _, _ = chain.propose()
    stranger = sign_block(make_key("stranger"), block.header, block.body)
    assert refuse(chain, stranger).field == "signature"
    assert refuse(chain, replace(block, signature=bytes(64))).field == "signature"
    wrong_domain = sign_proposal(chain.keys[block.header.proposer], chain.genesis.chain_id, 0, 1, block.id).signature
    assert refuse(chain, replace(block, signature=wrong_domain)).field == "signature"


def test_only_the_leader_of_the_view_proposes() -> None:
    chain = make_chain()
    block, _, _ = chain.propose()
    for key in chain.validators:
        if key.public_key != block.header.proposer:
            assert refuse(chain, resign(chain, block, proposer=key.public_key)).field == "proposer"


def test_a_block_of_another_chain_is_refused() -> None:
    chain, other = make_chain(), Chain(name="other")
    assert chain.genesis.chain_id != other.genesis.chain_id
    block, _, _ = other.propose()
    assert refuse(chain, block).field == "chain_id"
    operation = other.transfer(chain.users[0], chain.users[1], 5, nonce=1)  # signed for the other chain
    foreign, _, rejected = chain.propose([operation])
    assert not rejected
    assert refuse(chain, foreign).field == "operations[0]"


Evidence = tuple[str, Callable[[Chain, Body], Body]]


def with_parent(make: Callable[[Chain], Certificate | None]) -> Callable[[Chain, Body], Body]:
    return lambda chain, body: replace(body, parent_certificate=make(chain))


def certificate_with(**fields: Any) -> Callable[[Chain, Body], Body]:
    def change(chain: Chain, body: Body) -> Body:
        assert body.parent_certificate is not None
        return replace(body, parent_certificate=replace(body.parent_certificate, **fields))

    return change


def reshape(change: Callable[[Certificate], Certificate]) -> Callable[[Chain, Body], Body]:
    def apply(chain: Chain, body: Body) -> Body:
        assert body.parent_certificate is not None
        return replace(body, parent_certificate=change(body.parent_certificate))

    return apply


BAD_PARENT_CERTIFICATES: dict[str, Callable[[Chain, Body], Body]] = {
    "missing": with_parent(lambda chain: None),
    "of the grandparent": with_parent(lambda chain: chain.certify(chain.blocks[-2].header, VoteKind.NOTARIZE)),
    "of another block": with_parent(lambda chain: chain.certify_id(VoteKind.NOTARIZE, 0, chain.head.view, OTHER)),
    "of another view": with_parent(lambda chain: chain.certify(chain.head, VoteKind.NOTARIZE, view=5)),
    "of another epoch": with_parent(lambda chain: chain.certify_id(VoteKind.NOTARIZE, 1, 4, chain.head.id)),
    "a nullification": with_parent(lambda chain: chain.nullify(chain.head.view)),
    "claiming another kind": certificate_with(kind=int(VoteKind.FINALIZE)),
    "claiming to be a nullification": certificate_with(kind=int(VoteKind.NULLIFY)),
    "two of four": with_parent(
        lambda chain: chain.certify(chain.head, VoteKind.NOTARIZE, signers=chain.validators[:2])
    ),
    "empty": certificate_with(signers=(), signatures=()),
    "one signer repeated": reshape(lambda c: replace(c, signers=c.signers[:1] * 4, signatures=c.signatures[:1] * 4)),
    "a signer added twice": reshape(
        lambda c: replace(c, signers=(0, 1, 1), signatures=(*c.signatures[:2], c.signatures[1]))
    ),
    "unsorted": reshape(lambda c: replace(c, signers=c.signers[::-1], signatures=c.signatures[::-1])),
    "a signer outside": reshape(lambda c: replace(c, signers=(*c.signers[:3], 4))),
    "a signature missing": reshape(lambda c: replace(c, signatures=c.signatures[:3])),
    "a signature too many": reshape(lambda c: replace(c, signatures=(*c.signatures, c.signatures[0]))),
    "a signature forged": reshape(lambda c: replace(c, signatures=(bytes(64), *c.signatures[1:]))),
    "signatures swapped": reshape(
        lambda c: replace(c, signatures=(c.signatures[1], c.signatures[0], *c.signatures[2:]))
    ),
    "signed for another chain": with_parent(
        lambda chain: Chain(name="other").certify_id(VoteKind.NOTARIZE, 0, chain.head.view, chain.head.id)
    ),
}


@pytest.mark.parametrize("name", BAD_PARENT_CERTIFICATES)
def test_the_parent_must_be_certified(name: str) -> None:
    chain = make_chain()
    block, _, _ = chain.propose()
    error = refuse(chain, resign(chain, block, body=BAD_PARENT_CERTIFICATES[name](chain, block.body)))
    assert error.field == "parent_certificate"


def test_three_of_four_certify_and_finality_stands_for_notarization() -> None:
    chain = make_chain()
    for kind in (VoteKind.NOTARIZE, VoteKind.FINALIZE):
        certificate = chain.certify(chain.head, kind, signers=chain.validators[1:])
        block, _, _ = chain.propose(parent_certificate=certificate)
        assert block.body.parent_certificate == certificate
        state_transition(chain.genesis, chain.head, chain.state, block)


def test_the_first_block_has_no_certificate() -> None:
    chain = Chain()
    block, _, _ = chain.propose()
    assert block.body.parent_certificate is None
    body = replace(block.body, parent_certificate=chain.certify(chain.head, VoteKind.NOTARIZE))
    assert refuse(chain, resign(chain, block, body=body)).field == "parent_certificate"


def test_an_epoch_begins_on_a_final_block_only() -> None:
    chain = Chain()
    chain.append_epochs(1)
    assert chain.head.height == get_last_height(chain.genesis.parameters, 0) == 4
    block, _, _ = chain.propose()
    assert block.header.epoch == 1 and block.header.view == 1
    body = replace(block.body, parent_certificate=chain.certify(chain.head, VoteKind.NOTARIZE))
    assert refuse(chain, resign(chain, block, body=body)).field == "parent_certificate"
    # The last block of an epoch is proposed again until it is final: its finality may be of a later view.
    body = replace(block.body, parent_certificate=chain.certify(chain.head, VoteKind.FINALIZE, view=9))
    state_transition(chain.genesis, chain.head, chain.state, resign(chain, block, body=body))


def test_nullifications_cover_exactly_the_skipped_views() -> None:
    chain = make_chain()  # the head is of view 4
    block, _, _ = chain.propose(skipped=2)  # views 5 and 6 are nullified
    five, six = block.body.nullifications
    assert (five.view, six.view, block.header.view) == (5, 6, 7)
    notarized = chain.certify_id(VoteKind.NOTARIZE, 0, 6, OTHER)
    short = chain.certify_id(VoteKind.NULLIFY, 0, 6, NO_BLOCK, chain.validators[:2])
    cases = {
        "none": (),
        "first only": (five,),
        "second only": (six,),
        "swapped": (six, five),
        "one twice": (five, five),
        "one too early": (chain.nullify(4), five, six),
        "one too late": (five, six, chain.nullify(7)),
        "of another epoch": (five, chain.nullify(6, epoch=1)),
        "a notarization": (five, notarized),
        "naming a block": (five, replace(six, block_id=OTHER)),
        "short": (five, short),
        "empty": (five, replace(six, signers=(), signatures=())),
        "forged": (five, replace(six, signatures=five.signatures)),
    }
    for name, nullifications in cases.items():
        body = replace(block.body, nullifications=nullifications)
        assert refuse(chain, resign(chain, block, body=body)).field == "nullifications", name
    state_transition(chain.genesis, chain.head, chain.state, block)


def test_superfluous_nullifications_are_refused() -> None:
    chain = make_chain()
    block, _, _ = chain.propose()
    body = replace(block.body, nullifications=(chain.nullify(5),))
    assert refuse(chain, resign(chain, block, body=body)).field == "nullifications"


def test_a_view_beyond_all_reason_is_refused_at_once() -> None:
    """The views in between are counted, not listed: this must not take 2^60 steps."""
    chain = make_chain()
    block, _, _ = chain.propose()
    for view in (10**6, 2**60, 2**63 - 1):
        forged = resign(chain, block, view=view, proposer=chain.leader(view).public_key)
        assert refuse(chain, forged).field == "nullifications"


def test_a_tampered_body_is_refused() -> None:
    chain = make_chain()
    user, other = chain.users
    block, _, _ = chain.propose([chain.transfer(user, other, 5), chain.transfer(other, user, 6)])
    first, second = block.body.operations
    for operations in ((), (first,), (second, first), (first, second, second)):
        body = replace(block.body, operations=operations)
        assert refuse(chain, replace(block, body=body)).field == "body_root"
    signed = replace(block.body, nullifications=())
    assert signed == block.body
    other_votes = chain.certify(chain.head, VoteKind.NOTARIZE, signers=chain.validators[:3])
    body = replace(block.body, parent_certificate=other_votes)
    assert refuse(chain, replace(block, body=body)).field == "body_root"


def test_a_block_that_is_too_large_is_refused() -> None:
    chain = make_chain()
    user, other = chain.users
    nonce, count = chain.account(user).nonce, MAX_BLOCK_BYTES // 200
    operations = [chain.sign(user, Transfer(nonce + n, other.public_key, 0, bytes(64))) for n in range(count)]
    block, transition, rejected = chain.propose(operations)
    assert len(block.encoded) <= MAX_BLOCK_BYTES and not rejected
    kept = len(block.body.operations)
    assert 0 < kept < count  # a proposer takes what fits, and leaves the rest for later without rejecting it
    body = replace(block.body, operations=tuple(operations))
    large = resign(chain, block, body=body)
    assert len(large.encoded) > MAX_BLOCK_BYTES
    assert refuse(chain, large).field == "body"
    chain.accept(block, transition)


def test_operations_with_bad_signatures_are_refused() -> None:
    chain = make_chain()
    user, other = chain.users
    good = chain.transfer(user, other, 5)
    bad = {
        "forged": replace(good, signature=bytes(64)),
        "of another operation": replace(good, signature=chain.transfer(user, other, 6).signature),
        "of another account": replace(good, signer=other.public_key),
        "in another domain": replace(
            good, signature=user.sign("receipt", chain.genesis.chain_id, good.operation.encode())
        ),
        "of another chain": replace(good, signature=user.sign("operation", OTHER, good.operation.encode())),
        "of an unusable key": replace(good, signer=bytes(32)),
    }
    first = chain.transfer(other, user, 1)
    for name, operation in bad.items():
        block, _, _ = chain.propose([first])
        body = replace(block.body, operations=(first, operation))
        assert refuse(chain, resign(chain, block, body=body)).field == "operations[1]", name


def test_known_signatures_are_not_checked_again_but_the_rest_is() -> None:
    chain = make_chain()
    user, other = chain.users
    known, forged = chain.transfer(user, other, 5), replace(chain.transfer(other, user, 1), signature=bytes(64))
    block, _, _ = chain.propose([known, forged])
    asked: list[SignedOperation] = []

    def is_verified(operation: SignedOperation) -> bool:
        asked.append(operation)
        return operation == known

    with pytest.raises(InvalidBlock, match=r"operations\[1\]"):
        state_transition(chain.genesis, chain.head, chain.state, block, is_verified)
    assert asked == [known, forged]
    fields = [field for field, _ in get_signature_checks(chain.genesis, chain.epoch, chain.head, block)]
    assert fields[0] == "signature" and fields[-2:] == ["operations[0]", "operations[1]"]
    assert fields.count("parent_certificate") == 4


def test_an_operation_that_cannot_be_included_spoils_the_block() -> None:
    chain = make_chain()
    user, other = chain.users
    block, _, _ = chain.propose()
    for operation in (
        chain.transfer(user, other, 5, nonce=0),
        chain.transfer(user, other, 5, nonce=2),
        chain.transfer(make_key("stranger"), other, 0),
        chain.hold(user, 300),
        chain.hold(user, 0, payee=other.public_key),
        chain.capture(other, chain.delivery(user, 0)),
    ):
        body = replace(block.body, operations=(operation,))
        error = refuse(chain, resign(chain, block, body=body))
        assert error.field == "operations" and "number 0" in error.reason


def test_an_operation_stands_once() -> None:
    chain = make_chain()
    user, other = chain.users
    for operation in (chain.transfer(user, other, 5), chain.hold(user, 0)):
        block, _, _ = chain.propose([operation])
        body = replace(block.body, operations=(operation, operation))
        assert refuse(chain, resign(chain, block, body=body)).field == "operations"


def test_apply_block_checks_all_but_signatures() -> None:
    chain = make_chain()
    block, transition, _ = chain.propose([chain.transfer(chain.users[0], chain.users[1], 5)])
    unsigned = replace(block, signature=bytes(64))
    result: Transition = apply_block(chain.genesis, chain.head, chain.state, unsigned)
    assert result.state.root == transition.state.root
    for field in ("state_root", "history_root", "parent_id", "view"):
        with pytest.raises(InvalidBlock) as caught:
            apply_block(
                chain.genesis, chain.head, chain.state, resign(chain, block, **{field: FORGERIES[field](block.header)})
            )
        assert caught.value.field == field


@pytest.mark.parametrize("length", [0, 3, 4, 6])
@pytest.mark.parametrize("signers", [(4,), (0, 2**40), (2**63 - 1,)])
def test_apply_block_refuses_certificates_of_unknown_positions(length: int, signers: tuple[int, ...]) -> None:
    """Before signatures are checked: at the beginning, within an epoch, and across a border."""
    chain = Chain()
    for _ in range(length):
        chain.append()
    block, _, _ = chain.propose()
    certificate = Certificate(1, chain.next_epoch, chain.head.view, chain.head.id, signers, ())
    body = replace(block.body, parent_certificate=certificate)
    header = replace(block.header, body_root=body.root)
    forged = sign_block(chain.keys[header.proposer], header, body)
    with pytest.raises(InvalidBlock):
        apply_block(chain.genesis, chain.head, chain.state, forged)


def test_state_and_header_of_the_wrong_height_do_not_mix() -> None:
    chain = make_chain()
    block, _, _ = chain.propose([chain.transfer(chain.users[0], chain.users[1], 5)])
    with pytest.raises(InvalidBlock) as caught:
        state_transition(chain.genesis, chain.head, chain.states[-2], block)
    assert caught.value.field in ("beacon_reveal", "operations", "history_root", "state_root")


def test_finality_certificates() -> None:
    chain = make_chain()
    block = chain.blocks[-1]
    validators = chain.epoch.validators
    verify_finality(chain.genesis, validators, block.header, chain.finality(block))
    bad = [
        chain.certify(block.header, VoteKind.NOTARIZE),
        chain.nullify(block.header.view),
        chain.finality(chain.blocks[-2]),
        chain.certify_id(VoteKind.FINALIZE, 1, block.header.view, block.id),
        chain.certify(block.header, VoteKind.FINALIZE, signers=chain.validators[:2]),
        replace(chain.finality(block), signatures=chain.certify(block.header, VoteKind.NOTARIZE).signatures),
    ]
    for certificate in bad:
        with pytest.raises(InvalidCertificate):
            verify_finality(chain.genesis, validators, block.header, certificate)


def test_epochs_of_heights() -> None:
    assert [get_epoch(PARAMETERS, height) for height in range(10)] == [0, 0, 0, 0, 0, 1, 1, 1, 1, 2]
    for epoch in range(5):
        last = get_last_height(PARAMETERS, epoch)
        assert get_epoch(PARAMETERS, last) == epoch and get_epoch(PARAMETERS, last + 1) == epoch + 1


def test_epochs_of_one_height() -> None:
    chain = Chain(parameters=replace(PARAMETERS, epoch_heights=1, round_heights=1))
    for _ in range(5):
        chain.append([chain.transfer(chain.users[0], chain.users[1], 1)], skipped=1)
    assert chain.head.epoch == 4 and chain.state.serving_table(3) is None
    assert all(chain.state.serving_table(number) is not None for number in (4, 5, 6))


def test_build_block_on_a_full_room_of_evidence_still_makes_a_valid_block() -> None:
    chain = make_chain()
    for skipped, proven in ((30, 30), (MAX_NULLIFICATIONS, 32), (60, 32)):
        block, transition, _ = chain.propose([chain.transfer(chain.users[0], chain.users[1], 1)], skipped=skipped)
        assert len(block.body.nullifications) == proven and len(block.body.operations) == 1
        assert block.body.nullifications[-1].view == block.header.view - 1
        chain.accept(block, transition)
        one_more = replace(block.body, nullifications=block.body.nullifications[1:])
        chain.blocks.pop(), chain.states.pop(), chain.failures.pop()
        assert refuse(chain, resign(chain, block, body=one_more)).field == "nullifications"
        chain.accept(block, transition)


def test_blocks_built_twice_are_the_same() -> None:
    one, two = make_chain(), make_chain()
    assert one.head.id == two.head.id and one.blocks[-1].encoded == two.blocks[-1].encoded
    assert one.head.beacon_reveal != NO_REVEAL
    first, second = one.blocks
    rebuilt, _, _ = build_block(
        one.genesis, one.leader(4), first.header, one.states[1], second.body.operations, view=4,
        timestamp=one.head.timestamp, reveal=one.head.beacon_reveal,
        parent_certificate=second.body.parent_certificate, nullifications=second.body.nullifications,
    )  # fmt: skip
    assert rebuilt.encoded == one.blocks[1].encoded
