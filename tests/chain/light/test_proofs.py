"""Proofs for strangers: what is true can be shown from any checkpoint, and nothing else can."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.audit.proof_builder import prove_balance, prove_operation, rebuild_chain
from chain.audit.sources import StoreSource
from chain.codec import pack, unpack
from chain.crypto import KeyPair, hash_bytes
from chain.exceptions import ProofError, StoreError
from chain.genesis import Genesis
from chain.light.client import Checkpoint
from chain.light.proofs import (
    MAX_LINKS,
    MAX_PROOF_BYTES,
    HeaderLink,
    PastBlock,
    Proof,
    ProvenAccount,
    ProvenOperation,
    VerifiedProof,
    check_proof,
    format_proof,
    parse_proof,
)
from chain.merkle.mountain_range import MountainRange, prove_mountain_range_leaf
from chain.state.keys import account_key
from chain.state.records import Account
from chain.state.state import State
from chain.store.kv import MemoryStore
from chain.store.writer import ChainStore
from chain.transition.block import Transition
from chain.transition.epochs import get_epoch, get_last_height
from chain.types.blocks import NO_REVEAL, Block, Body, Header, sign_block
from chain.types.operations import MAX_CAPTURE_BYTES, Hold, SignedOperation, Transfer, sign_operation
from chain.types.validators import ValidatorSet
from chain.types.votes import NO_BLOCK, Certificate, VoteKind, make_certificate, sign_vote
from tests.support.chain_builder import PARAMETERS, START, Chain, make_test_genesis
from tests.support.chains.busy_chain import make_busy_chain
from tests.support.chains.chain_store import fill_store, get_transitions
from tests.support.keys import make_key, make_keys

OTHER = hash_bytes("test other")
E = 4
"""Heights in an epoch."""

FIRST = make_keys(4)
STAKES = (400_000, 300_000, 200_000, 100_000)
"""Of every committee."""

USERS = make_keys(5, "user")


@dataclass
class Ledger:
    """A chain of headers that only a light client looks at, with committees that change, in a store.

    The blocks are not executed: the state is a few accounts, of which one changes in each block, and bodies are
    transfers between users. Genesis fixes the committee of epochs 0 and 1; after that each epoch has its own.
    """

    genesis: Genesis
    committees: list[list[KeyPair]]
    sets: list[ValidatorSet]
    blocks: list[Block]
    states: list[State]
    disk: MemoryStore
    store: ChainStore
    keys: dict[bytes, KeyPair]

    def header(self, height: int) -> Header:
        return self.blocks[height - 1].header if height else self.genesis.header

    def checkpoint(self, height: int) -> Checkpoint:
        return Checkpoint(height, self.header(height).id)

    def certify(
        self,
        header: Header,
        kind: VoteKind = VoteKind.FINALIZE,
        *,
        signers: Sequence[KeyPair] | None = None,
        view: int | None = None,
        validators: ValidatorSet | None = None,
    ) -> Certificate:
        """Votes on a header: to make it final, in its view, by all of its epoch's committee unless told otherwise."""
        validators = validators or self.find_validators(header)
        if signers is None:
            signers = [self.keys[validator.public_key] for validator in validators]
        view = header.view if view is None else view
        block_id = NO_BLOCK if kind == VoteKind.NULLIFY else header.id
        votes = [sign_vote(key, self.genesis.chain_id, kind, header.epoch, view, block_id) for key in signers]
        return make_certificate(votes, validators)

    def find_validators(self, header: Header) -> ValidatorSet:
        return next((each for each in self.sets if each.hash == header.validators_hash), self.sets[header.epoch])


def make_committee(epoch: int) -> list[KeyPair]:
    """Epochs 2 and 3 share theirs; every other one replaces a member, and none of the first is left in the end."""
    number = 0 if epoch < 2 else max(1, epoch - 2)
    return [*FIRST, *make_keys(12, "later")][number : number + 4]


def make_ledger(epochs: int = 8, *, unbonding_epochs: int = 5, name: str = "test", restart: int = 0) -> Ledger:
    """A ledger of so many epochs; the block at height ``restart`` strikes off the first two validators."""
    genesis = make_test_genesis(
        FIRST,
        stakes=STAKES,
        parameters=replace(PARAMETERS, unbonding_epochs=unbonding_epochs),
        name=name,
    )
    committees = [make_committee(epoch) for epoch in range(epochs + 2)]  # the last two are known, and have not begun
    sets = [
        genesis.validators
        if epoch < 2
        else ValidatorSet.of(zip((key.public_key for key in committee), STAKES, strict=True))
        for epoch, committee in enumerate(committees)
    ]
    disk = MemoryStore()
    keys = {key.public_key: key for committee in committees for key in committee}
    ledger = Ledger(genesis, committees, sets, [], [genesis.state], disk, ChainStore(disk, genesis), keys)
    history = MountainRange(0, ())
    for height in range(1, epochs * E + 1):
        parent, epoch = ledger.header(height - 1), get_epoch(genesis.parameters, height)
        history = history.append(parent.id)
        user = USERS[height % len(USERS)].public_key
        changes: dict[bytes, Any] = {account_key(user): Account(nonce=height, available=1_000 * height)}
        if height == get_last_height(genesis.parameters, epoch):
            changes[number_key(b"c", epoch + 2)] = sets[epoch + 2]
        if height == restart:
            sets.append(sets[epoch])  # so that those of before are still found
            sets[epoch] = changes[number_key(b"c", epoch)] = ValidatorSet(sets[epoch].validators[2:])
        state = ledger.states[-1].update(changes)
        body = Body(tuple(make_transfer(genesis, height, index) for index in range(height % 4)), None, (), ())
        leader = committees[epoch][height % 4]
        header = replace(
            genesis.header,
            epoch=epoch,
            height=height,
            view=2 * height,
            parent_id=parent.id,
            timestamp=START + 1_000 * height,
            proposer=leader.public_key,
            body_root=body.root,
            state_root=state.root,
            history_root=history.root,
            validators_hash=sets[epoch].hash,
            next_validators_hash=sets[epoch + 1].hash,
            beacon_reveal=NO_REVEAL if height == restart else OTHER,
        )
        block = sign_block(leader, header, body)
        ledger.blocks.append(block)
        ledger.states.append(state)
        transition = Transition(state, changes, (None,) * len(body.operations))
        ledger.store.append([(block, transition)], ledger.certify(header))
    return ledger


def make_transfer(genesis: Genesis, height: int, index: int) -> SignedOperation:
    return sign_operation(USERS[index], genesis.chain_id, Transfer(height, USERS[index + 1].public_key, 7))


def number_key(kind: bytes, number: int) -> bytes:
    return kind + number.to_bytes(8, "big")


@cache
def get_ledger() -> Ledger:
    """The ledger that the tests look at and none changes: 8 epochs, in which the first checkpoints grow too old."""
    return make_ledger()


def refuse(proof: Proof, message: str, checkpoint: Checkpoint | None = None, ledger: Ledger | None = None) -> None:
    """Refused, for that reason, from the checkpoint that the proof itself starts from unless another is given."""
    trusted = checkpoint or Checkpoint(proof.checkpoint.height, proof.checkpoint.id)
    with pytest.raises(ProofError, match=message):
        check_proof((ledger or get_ledger()).genesis, trusted, proof)


def check(ledger: Ledger, proof: Proof, height: int) -> VerifiedProof:
    """Checked as a stranger would, from the text and a checkpoint."""
    return check_proof(ledger.genesis, ledger.checkpoint(height), parse_proof(format_proof(proof)))


# What is true can be shown.


@pytest.mark.parametrize("height", range(0, 33, 3))
def test_balances_from_every_checkpoint(height: int) -> None:
    ledger = get_ledger()
    last = ledger.header(32)
    since = get_epoch(ledger.genesis.parameters, height)
    if last.epoch - since > 5:
        with pytest.raises(ProofError, match="too old"):
            prove_balance(ledger.store, USERS[0].public_key, ledger.checkpoint(height))
        return
    for user in USERS:
        proof = prove_balance(ledger.store, user.public_key, ledger.checkpoint(height))
        verified = check(ledger, proof, height)
        assert isinstance(verified.statement, ProvenAccount)
        assert verified.statement.account == ledger.states[-1].account(user.public_key)
        assert (verified.header, verified.anchor, verified.checkpoint) == (last, last, ledger.header(height))
        assert [link.header.epoch for link in proof.links] == [*range(since + 1, last.epoch), last.epoch]
        assert verified.share == verified.smallest_share == 1


def test_a_checkpoint_of_the_last_block_needs_no_step() -> None:
    ledger = get_ledger()
    proof = prove_balance(ledger.store, USERS[0].public_key, ledger.checkpoint(32))
    assert proof.links == ()
    verified = check(ledger, proof, 32)
    assert verified.share is None and verified.smallest_share is None


def test_an_account_that_never_was() -> None:
    ledger = get_ledger()
    stranger = make_key("stranger").public_key
    verified = check(ledger, prove_balance(ledger.store, stranger, ledger.checkpoint(30)), 30)
    assert verified.statement == replace(verified.statement, public_key=stranger, account=None)


@given(checkpoint=st.integers(0, 32), height=st.integers(1, 32), data=st.data())
def test_operations_from_any_checkpoint(checkpoint: int, height: int, data: st.DataObject) -> None:
    ledger = get_ledger()
    operations = ledger.blocks[height - 1].body.operations
    if not operations:
        return
    operation = operations[data.draw(st.integers(0, len(operations) - 1))]
    epoch = get_epoch(ledger.genesis.parameters, checkpoint)
    if ledger.header(height).epoch - epoch > 5:
        with pytest.raises(ProofError, match="too old"):
            prove_operation(ledger.store, operation.id, ledger.checkpoint(checkpoint))
        return
    proof = prove_operation(ledger.store, operation.id, ledger.checkpoint(checkpoint))
    verified = check(ledger, proof, checkpoint)
    assert isinstance(verified.statement, ProvenOperation) and verified.statement.operation == operation
    assert verified.header == ledger.header(height)
    if height <= checkpoint:
        assert proof.links == () and verified.anchor == ledger.header(checkpoint) and verified.share is None
        assert (verified.statement.past is None) == (height == checkpoint)
    else:
        assert verified.anchor == ledger.header(height) and verified.statement.past is None


def test_validators_are_named_only_where_they_change() -> None:
    ledger = get_ledger()
    proof = prove_operation(ledger.store, ledger.blocks[6 * E].body.operations[0].id, ledger.checkpoint(E + 1))
    assert [link.header.epoch for link in proof.links] == [2, 3, 4, 5, 6]
    assert [link.validators is None for link in proof.links] == [False, True, False, False, False]
    proof = prove_operation(ledger.store, ledger.blocks[0].body.operations[0].id)
    assert [link.validators for link in proof.links] == [None], "those of genesis are known"


def test_the_smallest_share_is_reported() -> None:
    ledger = make_ledger(4)
    weak, last = ledger.header(3 * E), ledger.header(4 * E)
    proof = prove_balance(ledger.store, USERS[0].public_key, ledger.checkpoint(2 * E))
    links = (
        replace(proof.links[0], certificate=ledger.certify(weak, signers=ledger.committees[2][:2])),
        replace(proof.links[1], certificate=ledger.certify(last, signers=ledger.committees[3][:3])),
    )
    verified = check_proof(ledger.genesis, ledger.checkpoint(2 * E), replace(proof, links=links))
    assert (verified.share, verified.smallest_share) == (0.9, 0.7)


def test_a_restart_counts_for_a_reader_that_accepts_it() -> None:
    """Epoch 4 is of the heights 17 to 20; at 18 two validators with 70 % of the stake are struck off."""
    ledger = make_ledger(6, restart=18)
    restart = ledger.header(18)
    before, checkpoint = ledger.genesis, ledger.checkpoint(10)
    with pytest.raises(ProofError, match="block 20 are not those that block 16 announces"):
        prove_balance(ledger.store, USERS[0].public_key, checkpoint)
    accepting = ledger.store.accept_restart(restart.id)
    assert accepting.chain_id == before.chain_id
    proof = prove_balance(ledger.store, USERS[0].public_key, checkpoint)
    assert [link.header.height for link in proof.links] == [16, 18, 20, 24]
    verified = check_proof(accepting, checkpoint, proof)
    assert verified.restarts == (restart,) and verified.smallest_share == 1
    refuse(proof, f"add the block id {restart.id.hex()} to 'restarts'", checkpoint, ledger)
    without = replace(proof, links=(proof.links[0], *proof.links[2:]))
    with pytest.raises(ProofError, match="validators of block 20 are not those that block 16 announces"):
        check_proof(accepting, checkpoint, without)
    rest = [ledger.keys[validator.public_key] for validator in ledger.sets[4]]
    minority = with_step(proof, 1, certificate=ledger.certify(restart, signers=rest[:1]))
    with pytest.raises(ProofError, match="200000 of 300000 stake is not more than 2/3"):
        check_proof(accepting, checkpoint, minority)
    # What lies before it in its epoch, and after it.
    for height, anchor in ((17, 18), (19, 19), (21, 21)):
        proof = prove_operation(ledger.store, ledger.blocks[height - 1].body.operations[0].id, checkpoint)
        verified = check_proof(accepting, checkpoint, proof)
        assert (verified.header.height, verified.anchor.height) == (height, anchor)
        assert verified.restarts == (restart,)
    after = ledger.checkpoint(18)
    verified = check_proof(before, after, prove_balance(ledger.store, USERS[0].public_key, after))
    assert verified.restarts == (), "the checkpoint speaks for everything before it"


def test_a_real_chain_can_be_proven_whole() -> None:
    """Everything on it, from its store and rebuilt from its blocks; some ends of epochs have no certificate there."""
    chain, finals = make_busy_chain(24)
    store = MemoryStore()
    blocks = fill_store(store, chain, finals)
    rebuilt = rebuild_chain(StoreSource(store))
    assert any(height not in finals for height in range(E, 24, E))
    assert rebuilt.header == blocks.header and rebuilt.state.root == blocks.state.root
    checkpoint = Checkpoint(13, chain.blocks[12].id)
    effects: dict[type, bool] = {}
    for block in chain.blocks:
        for operation, failure in zip(block.body.operations, chain.failures[block.height - 1], strict=True):
            proof = prove_operation(blocks, operation.id, checkpoint)
            verified = check_proof(chain.genesis, checkpoint, proof)
            assert isinstance(verified.statement, ProvenOperation)
            assert verified.header == block.header and verified.statement.operation == operation
            assert failure is None or not verified.statement.shows_effect
            effects[type(operation.operation)] = verified.statement.shows_effect
        assert prove_operation(rebuilt, operation.id, checkpoint) == proof
    assert effects[Hold] and not effects[Transfer]
    for key in (*chain.users, *chain.validators, make_key("stranger")):
        proof = prove_balance(blocks, key.public_key, checkpoint)
        assert prove_balance(rebuilt, key.public_key, checkpoint) == proof
        verified = check_proof(chain.genesis, checkpoint, proof)
        assert isinstance(verified.statement, ProvenAccount)
        assert (verified.statement.account or Account()) == chain.account(key)
    with pytest.raises(ProofError, match="too old, 5 epochs"):
        prove_balance(blocks, chain.users[0].public_key)


# What is not there cannot be proven, and the prover says why.


def test_what_the_prover_refuses() -> None:
    ledger = get_ledger()
    for checkpoint, message in (
        (Checkpoint(33, OTHER), "above the last final block here, 32"),
        (Checkpoint(5, OTHER), "is not a final block of this chain"),
        (Checkpoint(5, ledger.header(6).id), "is not a final block of this chain"),
        (Checkpoint(0, OTHER), "is not a final block of this chain"),
    ):
        with pytest.raises(ProofError, match=message):
            prove_balance(ledger.store, USERS[0].public_key, checkpoint)
    with pytest.raises(ProofError, match="no final operation"):
        prove_operation(ledger.store, OTHER)


def test_a_store_that_lacks_what_it_takes() -> None:
    ledger = make_ledger(4)
    entries = {key: ledger.disk.get(key) for key in (number_key(b"b", 12), number_key(b"c", 2), number_key(b"l", 2))}
    operation = ledger.blocks[6].body.operations[0]
    ledger.disk.write({b"n" + ledger.header(2).id: None})
    with pytest.raises(ProofError, match="not all earlier blocks are here"):
        prove_operation(ledger.store, operation.id, ledger.checkpoint(9))
    for key, message in (
        (number_key(b"b", 12), "block 12 is not here"),
        (number_key(b"c", 2), "the validators of block 12 or their certificate"),
        (number_key(b"l", 2), "the validators of block 12 or their certificate"),
    ):
        ledger.disk.write({number_key(b"f", 12): None, key: None})
        with pytest.raises(ProofError, match=message):
            prove_balance(ledger.store, USERS[0].public_key, ledger.checkpoint(6))
        ledger.disk.write({key: entries[key]})
    assert len(prove_balance(ledger.store, USERS[0].public_key, ledger.checkpoint(6)).links) == 2
    ledger.disk.write({number_key(b"b", 7): None})
    with pytest.raises(ProofError, match="block 7 is not here"):
        prove_operation(ledger.store, operation.id, ledger.checkpoint(6))


def test_a_proof_has_a_bounded_number_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = get_ledger()
    monkeypatch.setattr("chain.audit.proof_builder.MAX_LINKS", 3)
    assert len(prove_balance(ledger.store, USERS[0].public_key, ledger.checkpoint(20)).links) == 3
    with pytest.raises(ProofError, match="3 steps at most, and there are 4: use a later checkpoint"):
        prove_balance(ledger.store, USERS[0].public_key, ledger.checkpoint(16))


def test_a_chain_without_its_last_certificate_is_not_rebuilt() -> None:
    chain, finals = make_busy_chain(6)
    store = MemoryStore()
    fill_store(store, chain, finals)
    assert rebuild_chain(StoreSource(store)).height == 6
    store.write({number_key(b"f", 6): None})
    with pytest.raises(StoreError, match="no finality certificate covers the blocks after 4"):
        rebuild_chain(StoreSource(store))


def test_a_pruned_store_proves_what_it_still_can() -> None:
    """Balances from any checkpoint that it has, and the operations of the blocks that it has."""
    chain = Chain()
    user, other = chain.users
    for _ in range(6 * E):
        chain.append([chain.transfer(user, other, 5)])
    blocks = ChainStore(MemoryStore(), chain.genesis, keep_epochs=1)
    for block, transition in get_transitions(chain):
        blocks.append([(block, transition)], chain.certify(block.header, VoteKind.FINALIZE))
    assert blocks.base.height == 5 * E
    ends = [Checkpoint(height, chain.blocks[height - 1].id) for height in range(4 * E, 6 * E, E)]
    for checkpoint in ends:
        proof = prove_balance(blocks, user.public_key, checkpoint)
        verified = check_proof(chain.genesis, checkpoint, proof)
        assert isinstance(verified.statement, ProvenAccount) and verified.statement.account == chain.account(user)
        for height in range(5 * E + 1, 6 * E + 1):
            operation = chain.blocks[height - 1].body.operations[0]
            proof = prove_operation(blocks, operation.id, checkpoint)
            assert check_proof(chain.genesis, checkpoint, proof).header.height == height
    with pytest.raises(ProofError, match="block 10 is not here"):
        prove_balance(blocks, user.public_key, Checkpoint(10, chain.blocks[9].id))
    with pytest.raises(ProofError, match="no final operation"):
        prove_operation(blocks, chain.blocks[3].body.operations[0].id, ends[-1])
    with pytest.raises(ProofError, match="not all earlier blocks are here"):
        prove_operation(blocks, chain.blocks[-3].body.operations[0].id, Checkpoint(6 * E, chain.head.id))


def test_what_a_damaged_store_makes_is_not_handed_out() -> None:
    ledger = make_ledger(2)
    other = replace(ledger.blocks[5], body=ledger.blocks[6].body)
    ledger.disk.write({number_key(b"b", 6): other.encoded})
    with pytest.raises(ProofError, match="is not part of block 6"):
        prove_operation(ledger.store, ledger.blocks[5].body.operations[0].id)


# Forgeries. The forger holds all keys where that does not settle the matter.


def get_balance_proof(checkpoint: int = 10) -> Proof:
    ledger = get_ledger()
    return prove_balance(ledger.store, USERS[2].public_key, ledger.checkpoint(checkpoint))


def get_operation_proof(height: int, checkpoint: int) -> Proof:
    ledger = get_ledger()
    return prove_operation(ledger.store, ledger.blocks[height - 1].body.operations[0].id, ledger.checkpoint(checkpoint))


def with_step(proof: Proof, index: int, **changes: Any) -> Proof:
    links = list(proof.links)
    links[index] = replace(links[index], **changes)
    return replace(proof, links=tuple(links))


def with_claim(proof: Proof, **changes: Any) -> Proof:
    return replace(proof, statement=replace(proof.statement, **changes))


def test_another_account_record() -> None:
    ledger, proof = get_ledger(), get_balance_proof()
    assert isinstance(proof.statement, ProvenAccount) and proof.statement.account is not None
    account = proof.statement.account
    for forged in (replace(account, available=account.available + 1), replace(account, nonce=0), Account(), None):
        refuse(with_claim(proof, account=forged), "not part of the state|what stands in place")
    refuse(with_claim(proof, public_key=USERS[1].public_key), "not part of the state")
    earlier = ledger.states[30]
    key = account_key(USERS[2].public_key)
    refuse(with_claim(proof, account=earlier.account(USERS[2].public_key), path=earlier.prove(key)), "not part of")
    stranger = make_key("stranger").public_key
    absent = ledger.states[-1].prove(account_key(stranger))
    refuse(with_claim(proof, account=None, path=absent), "not part of the state|does not stand|to be there")
    refuse(with_claim(proof, public_key=stranger, path=absent), "to be absent")


def test_another_chain() -> None:
    """The same keys, heights and epochs; only the genesis has another name."""
    ledger, other = get_ledger(), make_ledger(8, name="other")
    proof = prove_balance(other.store, USERS[2].public_key, other.checkpoint(10))
    refuse(proof, "not from the checkpoint", ledger.checkpoint(10))
    refuse(proof, "block 10 is of another chain")
    refuse(replace(get_balance_proof(), links=proof.links), "block 16 is of another chain")
    refuse(replace(proof, checkpoint=ledger.header(10)), "is of another chain")
    ours = get_balance_proof()
    theirs = other.certify(ours.links[0].header)  # the same header, but signed on the other chain
    refuse(with_step(ours, 0, certificate=theirs), "bad signature")


@pytest.mark.parametrize("index", [0, 2, 4])
def test_certificates_that_do_not_carry_the_stake(index: int) -> None:
    ledger, proof = get_ledger(), get_balance_proof()
    header = proof.links[index].header
    committee = ledger.committees[header.epoch]
    good = ledger.certify(header)
    one, two = ledger.certify(header, signers=committee[:1]), ledger.certify(header, signers=committee[1:3])
    cases = [
        (two, "500000 of 1000000 stake is not more than 2/3"),
        (ledger.certify(header, VoteKind.NOTARIZE), "is not a finality certificate"),
        (ledger.certify(header, VoteKind.NULLIFY), "is not a finality certificate"),
        (replace(ledger.certify(header, VoteKind.NOTARIZE), kind=int(VoteKind.FINALIZE)), "bad signature"),
        (
            replace(ledger.certify(ledger.header(5), view=header.view), epoch=header.epoch),
            "is not a finality certificate",
        ),
        (ledger.certify(header, view=header.view - 1), f"is of view {header.view - 1}"),
        (replace(good, view=header.view + 1), "bad signature" if header.height % E == 0 else "is of view"),
        (replace(good, signers=(0, 1, 2, 4)), "signer 4 is outside"),
        (replace(good, signers=good.signers[:3]), "3 signers but 4 signatures"),
        (replace(good, signatures=good.signatures[:3]), "4 signers but 3 signatures"),
        (replace(good, signatures=(*good.signatures[:3], bytes(64))), "bad signature"),
        (replace(good, signatures=tuple(reversed(good.signatures))), "bad signature"),
        (replace(good, signers=(0, 0, 0), signatures=one.signatures * 3), "not strictly increasing"),
        (replace(good, signers=(0, 2, 1), signatures=good.signatures[:3]), "not strictly increasing"),
        (replace(good, signers=(), signatures=()), "0 of 1000000 stake"),
    ]
    for certificate, message in cases:
        refuse(with_step(proof, index, certificate=certificate), message)


def test_exactly_two_thirds_are_not_enough() -> None:
    ledger = make_ledger(1)
    genesis = make_test_genesis(FIRST[:3], stakes=STAKES[:1] * 3, name="thirds")
    small = replace(ledger, genesis=genesis, committees=[FIRST[:3]] * 2, sets=[genesis.validators] * 2, blocks=[])
    header = replace(genesis.header, height=1, view=1, parent_id=genesis.header.id)
    path = genesis.state.prove(account_key(FIRST[0].public_key))
    statement = ProvenAccount(FIRST[0].public_key, genesis.state.account(FIRST[0].public_key), path)
    for signers, share in ((FIRST[:2], None), (FIRST[:3], 1.0)):
        proof = Proof(1, genesis.header, (HeaderLink(header, None, small.certify(header, signers=signers)),), statement)
        if share is None:
            refuse(proof, "800000 of 1200000 stake is not more than 2/3", ledger=small)
        else:
            assert check_proof(genesis, None, proof).share == share


def test_validators_of_the_forger() -> None:
    """A committee of one's own: beside the announced hash, in a forged header, and in place of a hop."""
    ledger, proof = get_ledger(), get_balance_proof()
    mine = make_keys(4, "forger")
    own = ValidatorSet.of((key.public_key, 25) for key in mine)
    last = proof.links[-1].header
    signed = ledger.certify(last, signers=mine, validators=own)
    refuse(with_step(proof, -1, validators=own, certificate=signed), "not those of block 32")
    forged = replace(last, validators_hash=own.hash)
    signed = ledger.certify(forged, signers=mine, validators=own)
    refuse(with_step(proof, -1, header=forged, validators=own, certificate=signed), "not those that block 28 announces")
    # A hop that announces them, signed by a minority of its own committee.
    hop = replace(proof.links[-2].header, next_validators_hash=own.hash)
    minority = ledger.certify(hop, signers=ledger.committees[hop.epoch][1:])
    links = (
        *proof.links[:-2],
        replace(proof.links[-2], header=hop, certificate=minority),
        HeaderLink(forged, own, signed),
    )
    refuse(replace(proof, links=links), "600000 of 1000000 stake")
    # The set before or after the right one, whose members sign.
    for epoch in (6, 8):
        signed = ledger.certify(last, signers=ledger.committees[epoch], validators=ledger.sets[epoch])
        refuse(with_step(proof, -1, validators=ledger.sets[epoch], certificate=signed), "not those of block 32")
    right = ledger.sets[7]
    stakes = ValidatorSet.of((each.public_key, each.stake + (place == 3)) for place, each in enumerate(right))
    refuse(with_step(proof, -1, validators=stakes), "not those of block 32")
    refuse(with_step(proof, -1, validators=None), "not those of block 32")


def test_hops_left_out_doubled_or_out_of_order() -> None:
    ledger, proof = get_ledger(), get_balance_proof()
    links = proof.links
    assert len(links) == 5
    for index in range(4):
        left_out = replace(proof, links=(*links[:index], *links[index + 1 :]))
        refuse(left_out, "leaves out the epochs between them")
        doubled = replace(proof, links=(*links[: index + 1], *links[index:]))
        refuse(doubled, "does not lead forward")
        swapped = [*links]
        swapped[index], swapped[index + 1] = swapped[index + 1], swapped[index]
        refuse(replace(proof, links=tuple(swapped)), "leaves out|does not lead forward")
    refuse(replace(proof, links=()), "not part of the state after block 10")
    refuse(replace(proof, links=links[:-1]), "not part of the state after block 28")
    refuse(replace(proof, links=links[-1:]), "leaves out")
    back = replace(proof, checkpoint=ledger.header(32))
    refuse(back, "does not lead forward")


def test_headers_that_contradict_themselves() -> None:
    """Signed by everybody, so that only the rule itself refuses them."""
    ledger, proof = get_ledger(), get_balance_proof(29)
    last = proof.links[0].header
    for changes, message in (
        ({"version": last.version + 1}, "of version"),
        ({"epoch": 6}, "is not in epoch 6"),
        ({"height": 33}, "is not in epoch 7"),
        ({"height": 29}, "does not lead forward"),
        ({"chain_id": OTHER}, "of another chain"),
        ({"validators_hash": ledger.sets[6].hash}, "not those that block 29 announces"),
    ):
        forged = replace(last, **changes)
        refuse(with_step(proof, 0, header=forged, certificate=ledger.certify(forged)), message)


def test_the_checkpoint_is_the_checkers_own() -> None:
    ledger, proof = get_ledger(), get_balance_proof(10)
    for checkpoint in (ledger.checkpoint(11), Checkpoint(10, OTHER), Checkpoint(11, ledger.header(10).id)):
        refuse(proof, "not from the checkpoint", checkpoint)
    with pytest.raises(ProofError, match="not from the checkpoint 0"):
        check_proof(ledger.genesis, None, proof)
    refuse(replace(proof, checkpoint=replace(ledger.header(10), timestamp=1)), "not from", ledger.checkpoint(10))


def test_a_checkpoint_that_is_too_old() -> None:
    """The rule is the checker's: a prover that does not keep it makes proofs that are refused."""
    lenient, strict = make_ledger(unbonding_epochs=7), make_ledger(unbonding_epochs=6)
    proof = prove_balance(lenient.store, USERS[0].public_key)
    assert len(proof.links) == 7 and proof.links[-1].header.epoch == 7
    assert check_proof(lenient.genesis, None, proof).anchor.epoch == 7
    links = []
    for link in proof.links:
        header = strict.header(link.header.height)
        links.append(replace(link, header=header, certificate=strict.certify(header)))
    with pytest.raises(ProofError, match="at height 0 is too old, 7 epochs before the block to be proven"):
        check_proof(strict.genesis, None, replace(proof, checkpoint=strict.genesis.header, links=tuple(links)))
    old = prove_operation(strict.store, strict.blocks[0].body.operations[0].id, strict.checkpoint(32))
    assert check(strict, old, 32).header.height == 1, "below the checkpoint nothing is too old"


def test_history_paths_of_something_else() -> None:
    ledger = get_ledger()
    proof = get_operation_proof(7, 20)
    assert isinstance(proof.statement, ProvenOperation) and proof.statement.past is not None
    past, ids = proof.statement.past, ledger.store.block_ids()
    forged_header = replace(past.header, body_root=OTHER)
    for changed, message in (
        (PastBlock(past.header, prove_mountain_range_leaf(ids[:20], 6)), "not one from block 20 to 7"),
        (PastBlock(past.header, prove_mountain_range_leaf(ids[:19], 7)), "not one from block 20 to 7"),
        (PastBlock(past.header, prove_mountain_range_leaf(ids[:21], 7)), "not one from block 20 to 7"),
        (
            PastBlock(past.header, replace(prove_mountain_range_leaf(ids[:19], 7), count=20)),
            "not one for number 7 of 20",
        ),
        (PastBlock(past.header, replace(prove_mountain_range_leaf(ids[:20], 6), index=7)), "not part of the history"),
        (PastBlock(ledger.header(8), past.path), "not one from block 20 to 8"),
        (PastBlock(forged_header, past.path), "not part of the history"),
        (
            PastBlock(forged_header, prove_mountain_range_leaf([*ids[:7], forged_header.id, *ids[8:20]], 7)),
            "not part of the history",
        ),
        (PastBlock(ledger.header(6), prove_mountain_range_leaf(ids[:20], 6)), "not part of block 6"),
        (None, "not part of block 20"),
    ):
        refuse(with_claim(proof, past=changed), message)
    later = get_operation_proof(21, 20)
    refuse(
        with_claim(later, past=PastBlock(ledger.header(21), prove_mountain_range_leaf(ids, 21))),
        "not one from block 21 to 21",
    )
    refuse(with_claim(later, past=past), "not one from block 21 to 7")


def test_operations_of_something_else() -> None:
    ledger, thief = get_ledger(), make_key("thief")
    proof = get_operation_proof(7, 20)
    assert isinstance(proof.statement, ProvenOperation)
    operation, path = proof.statement.operation, proof.statement.path
    changed = replace(operation.operation, amount=7_000_000)
    for forged in (
        replace(operation, operation=changed),
        replace(operation, signer=thief.public_key),
        sign_operation(thief, ledger.genesis.chain_id, changed),
        ledger.blocks[6].body.operations[1],
        ledger.blocks[2].body.operations[0],
    ):
        refuse(with_claim(proof, operation=forged), "the operation is not part of block 7")
    refuse(with_claim(proof, justification_hash=OTHER), "not part of block 7")
    for forged_path in (replace(path, index=1), replace(path, count=2), replace(path, siblings=path.siblings[:1])):
        refuse(with_claim(proof, path=forged_path), "not part of block 7|too short|too long")
    refuse(with_claim(proof, path=replace(path, index=9)), "does not exist")


def test_even_all_validators_cannot_sign_for_an_account() -> None:
    ledger = get_ledger()
    operation = replace(make_transfer(ledger.genesis, 99, 0), signature=bytes(64))
    body = Body((operation,), None, (), ())
    header = replace(ledger.header(30), body_root=body.root)
    path = replace(get_operation_proof(1, 0).statement.path, count=1, siblings=())  # type: ignore[union-attr]
    statement = ProvenOperation(operation, path, body.compute_justification_hash(), None)
    link = HeaderLink(header, ledger.sets[7], ledger.certify(header))
    refuse(Proof(1, ledger.header(29), (link,), statement), "not signed by the account")


# Bytes and text.


@pytest.mark.parametrize("make", [lambda: get_balance_proof(29), lambda: get_operation_proof(9, 30)])
def test_no_flipped_bit_is_accepted(make: Callable[[], Proof]) -> None:
    """And none raises anything but what it should."""
    ledger, proof = get_ledger(), make()
    checkpoint = Checkpoint(proof.checkpoint.height, proof.checkpoint.id)
    raw = proof.encode()
    wrong = 0
    for position in range(len(raw)):
        flipped = raw[:position] + bytes([raw[position] ^ (1 << position % 8)]) + raw[position + 1 :]
        text = format_raw(flipped)
        with pytest.raises(ProofError):
            check_proof(ledger.genesis, checkpoint, parse_proof(text))
        wrong += 1
    assert wrong == len(raw) > 500


def format_raw(raw: bytes) -> str:
    """Text of bytes that need not be a proof."""

    class Raw:
        def encode(self) -> bytes:
            return raw

    return format_proof(Raw())  # type: ignore[arg-type]


def test_every_cut_of_the_text_is_noticed() -> None:
    text = format_proof(get_operation_proof(9, 30))
    assert parse_proof(text) == get_operation_proof(9, 30)
    end = len(text.rstrip())
    for size in range(0, end, 7):
        with pytest.raises(ProofError, match="cut short" if text[:size].count("-") >= 10 else "not a proof"):
            parse_proof(text[:size])
    lines = text.splitlines()
    for index in range(1, len(lines) - 1):
        with pytest.raises(ProofError, match="damaged"):
            parse_proof("\n".join([*lines[:index], *lines[index + 1 :]]))


def test_text_survives_a_mail_but_nothing_else_passes() -> None:
    proof = get_operation_proof(9, 30)
    text = format_proof(proof)
    assert max(map(len, text.splitlines())) <= 76 and text.isascii()
    for mailed in ("\n\n" + text.replace("\n", "\r\n"), text.replace("\n", "\n   "), text + "\n \n"):
        assert parse_proof(mailed) == proof
    body = text.splitlines()[1:-1]
    for changed in ("", "garbage", "é" + text, text + "x", "\0" * 50, text.replace(body[0], body[0] + "!"), text * 2):
        with pytest.raises(ProofError):
            parse_proof(changed)
    with pytest.raises(ProofError, match="damaged"):
        parse_proof(text.replace(body[0], "é" + body[0][1:]))
    with pytest.raises(ProofError, match="damaged"):
        parse_proof(format_raw(b""))
    with pytest.raises(ProofError, match="characters at most"):
        parse_proof("x" * (2 * MAX_PROOF_BYTES + 1))


def test_one_proof_has_one_text() -> None:
    """Base64 has bits to spare at its end, which must be zero."""
    raw = get_operation_proof(9, 30).encode()
    raw += bytes(-len(raw) % 3 + 1)
    text = format_raw(raw)
    assert "A==\n" in text
    with pytest.raises(ProofError, match="damaged or of another version"):
        parse_proof(text)
    with pytest.raises(ProofError, match="not the base64 of anything"):
        parse_proof(text.replace("A==\n", "B==\n"))


@given(garbage=st.binary(max_size=300))
def test_garbage_is_refused(garbage: bytes) -> None:
    with pytest.raises(ProofError):
        parse_proof(format_raw(garbage))
    with pytest.raises(ProofError):
        parse_proof(garbage.decode("latin1"))


def test_sizes_are_bounded() -> None:
    proof = get_balance_proof(29)
    version, checkpoint, links, statement = unpack(proof.encode())
    header, _, certificate = links[0]

    def assert_refused(wire: Any, message: str) -> None:
        with pytest.raises(ProofError, match=message):
            parse_proof(format_raw(pack(wire)))

    many = [[bytes([number]) * 32, 2**62] for number in range(65)]
    assert_refused([version, checkpoint, [[header, [many], certificate]], statement], "65 is outside 1..64")
    assert_refused([version, checkpoint, [[header, None, certificate]] * (MAX_LINKS + 1), statement], "Proof.links")
    longer = [*certificate[:4], list(range(65)), [bytes(64)] * 65]
    assert_refused([version, checkpoint, [[header, None, longer]], statement], "65 is outside 0..64")
    branches = [[number % 256, bytes(32)] for number in range(257)]
    assert_refused([version, checkpoint, links, [*statement[:3], [branches, None]]], "257 is outside 0..256")
    assert_refused([version + 1, checkpoint, links, statement], "Proof.version")
    assert_refused([version, checkpoint, links, [3, *statement[1:]]], "unknown kind")
    header = [2**62 if type(field) is int else field for field in header]
    certificate = [certificate[0], 2**62, 2**62, certificate[3], list(range(64)), [bytes(64)] * 64]
    raw = pack([version, checkpoint, [[header, [many[:64]], certificate]] * MAX_LINKS, statement])
    assert 0.9 * MAX_PROOF_BYTES < len(raw) < MAX_PROOF_BYTES - MAX_CAPTURE_BYTES
    assert len(Proof.decode(raw, MAX_PROOF_BYTES).links) == MAX_LINKS
