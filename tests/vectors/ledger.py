"""Vectors of whole chains: blocks, states, certificates, a restart, and proofs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from chain.audit.proof_builder import prove_balance, prove_operation
from chain.crypto import KeyPair
from chain.exceptions import InvalidBlock, InvalidCertificate
from chain.genesis import Genesis
from chain.light.client import Checkpoint
from chain.state.state import State
from chain.store.kv import MemoryStore
from chain.store.writer import ChainStore
from chain.transition.block import apply_block, state_transition
from chain.transition.restart_file import accept, build_restart
from chain.transition.validators.registration import compute_challenge, mine
from chain.types.blocks import Block, Header, sign_block
from chain.types.operations import Dispute, Hold, Register, Release, SignedOperation
from chain.types.validators import ValidatorSet
from chain.types.votes import Certificate, Vote, VoteKind, is_slashable, sign_vote
from tests.support.chain_builder import PARAMETERS, Chain
from tests.support.keys import make_key
from tests.vectors.basics import describe_genesis, make_minimal_genesis
from tests.vectors.plain import Json

STAKES = (100_000, 120_000, 90_000, 110_000, 80_000, 70_000)
LEDGER_PARAMETERS = replace(
    PARAMETERS,
    entry_fee=900,
    deposit_per_byte=2,
    unused_number_fee=30,
    register_grant=500,
    register_cap=2,
    register_difficulty=2,
    newcomer_share=300,
    missed_lead_fee=700,
    participation_span_ms=10_000,  # two epochs
    max_settlements=1,
)


def make_ledger_chain() -> Chain:
    """A chain of thirteen blocks over four epochs in which nearly everything happens once."""
    chain = Chain(len(STAKES), 2, stakes=STAKES, parameters=LEDGER_PARAMETERS, name="vectors")
    (payer, other), validators = chain.users, chain.validators
    newcomer = make_key("newcomer")
    # Epoch 0: transfers (one fails), a registration, holds, captures, skipped views, late votes.
    chain.append(
        [
            chain.transfer(payer, other, 1_000),
            chain.transfer(payer, newcomer, 0, nonce=1),
            chain.sign(newcomer, _make_registration(chain, newcomer)),
            chain.bond(other, 5_000),
            chain.serve(other, "other", "smol", nonce=1),
        ]
    )
    first, second, third = (chain.hold(payer, seq, attempt) for seq, attempt in ((0, 0), (1, 1), (2, 0)))
    voters = [key for key in validators if key != validators[2]]
    chain.append([first, second, third, chain.transfer(other, payer, 10**9)], voters=voters)
    late = chain.vote(validators[2], chain.blocks[-1])
    receipt = chain.receipt(payer, chain.delivery(payer, 0))
    chain.append(
        [
            chain.capture(_payee(chain, first), receipt),
            chain.capture(_payee(chain, second), chain.delivery(payer, 1, 1, amount=2_000)),
            chain.capture(_payee(chain, third), chain.delivery(payer, 2, amount=3_000)),
        ],
        skipped=2,
        voters=voters,
        elapsed=1_500,
    )
    chain.append([_dispute(chain, payer, third)], late_votes=[late], elapsed=500)
    # Epoch 1: validators, a hold of the epoch before, the pending capture is paid, evidence slashes.
    chain.append(
        [
            chain.enroll(other),
            chain.unbond(other, 1_000, nonce=chain.account(other).nonce + 1),
            chain.hold(payer, 3, first_round=0, lifetime=3_000),
        ],
        skipped=1,
    )
    chain.append([chain.recommit(validators[0], 1)], elapsed=3_000, voters=voters)
    chain.append([chain.evidence(other, validators[3], epoch=1)], elapsed=60_000, voters=voters)
    chain.append([_release(chain, other, payer, 3)], voters=voters)
    # Epoch 2: who was slashed still votes, and so does who was jailed for its absence.
    chain.append([chain.retire(validators[1])])
    chain.append([chain.hold(payer, 259, amount=100), chain.withdraw(other)])  # the latter fails
    chain.append([chain.unjail(validators[2])], skipped=40)  # more views than a body shows
    chain.append()
    # Epoch 3: another committee.
    stranger = make_key("stranger")
    chain.append(
        [chain.transfer(payer, other, 1), chain.transfer(payer, stranger, 5, nonce=chain.account(payer).nonce + 1)]
    )
    return chain


def _make_registration(chain: Chain, newcomer: KeyPair) -> Register:
    challenge = compute_challenge(chain.genesis, chain.genesis.beacon, newcomer.public_key)
    salt = next(salt for salt in mine(challenge, LEDGER_PARAMETERS.register_difficulty) if salt is not None)
    return Register(0, salt, ("smol",))


def _payee(chain: Chain, signed: SignedOperation) -> KeyPair:
    assert isinstance(signed.operation, Hold)
    return chain.keys[signed.operation.payee]


def _dispute(chain: Chain, payer: KeyPair, hold: SignedOperation) -> SignedOperation:
    assert isinstance(hold.operation, Hold)
    return chain.sign(payer, Dispute(hold.id))


def _release(chain: Chain, signer: KeyPair, payer: KeyPair, seq: int) -> SignedOperation:
    return chain.sign(signer, Release(chain.find_hold_id(payer, seq)))


def make_genesis_file() -> Json:
    """Two genesis files."""
    chain = Chain(len(STAKES), 2, stakes=STAKES, parameters=LEDGER_PARAMETERS, name="vectors")
    minimal, restarted = make_minimal_genesis(), replace(chain.genesis, restarts=(bytes(range(32)),))
    assert restarted.chain_id == chain.genesis.chain_id
    return {
        "description": "Genesis files with everything that follows from them.",
        "section": "5",
        "cases": [
            minimal,
            describe_genesis("The genesis of chain.json.", chain.genesis),
            {
                "what": "The same with a restart that its reader accepts: another encoding, the same chain id.",
                "encoded": restarted.encode().hex(),
                "chain_id": restarted.chain_id.hex(),
            },
        ],
    }


def make_chain() -> Json:
    """The chain of :func:`make_ledger_chain`, block by block."""
    chain = make_ledger_chain()
    blocks = [
        describe_block(
            chain.genesis, chain.states[height - 1], chain.states[height], block, chain.finality(block), failures
        )
        for height, (block, failures) in enumerate(zip(chain.blocks, chain.failures, strict=True), start=1)
    ]
    return {
        "description": (
            "A chain with transfers, holds, captures, skipped views, late votes, epoch borders, a registration and "
            "evidence. 'failed' are the indexes of operations that failed, 'changes' what the block changes in the "
            "state: key to encoded record, or null where it is removed. All validators sign 'finality'."
        ),
        "section": "6, 7, 8, 9",
        "genesis": chain.genesis.encode().hex(),
        "seeds": {key.address: key.seed.hex() for key in (*chain.keys.values(), make_key("newcomer"))},
        "genesis_state": dump_state(chain.genesis.state),
        "blocks": blocks,
    }


def describe_block(
    genesis: Genesis,
    before: State,
    after: State,
    block: Block,
    finality: Certificate,
    failures: Sequence[str | None],
) -> Json:
    old, new = dump_state(before), dump_state(after)
    changes = {key: new.get(key) for key in sorted({*old, *new}) if old.get(key) != new.get(key)}
    return {
        "height": block.height,
        "epoch": block.header.epoch,
        "view": block.header.view,
        "operations": [type(signed.operation).__name__ for signed in block.body.operations],
        "failed": [index for index, failure in enumerate(failures) if failure is not None],
        "block_id": block.id.hex(),
        "proposer": block.header.proposer.hex(),
        "state_root": block.header.state_root.hex(),
        "encoded": block.encoded.hex(),
        "finality": finality.encode().hex(),
        "changes": changes,
    }


def dump_state(state: State) -> dict[str, str]:
    return {leaf.key.hex(): leaf.encoded.hex() for leaf in state.entries()}


def make_forgeries() -> Json:
    """Blocks that differ from one of the chain in one thing, each signed again by its proposer."""
    chain = make_ledger_chain()
    block, height = chain.blocks[3], 4
    parent, state = chain.blocks[2].header, chain.states[3]
    header, body = block.header, block.body
    epoch = chain.get_epoch(0)
    stranger = chain.keys[epoch.compute_leader(header.view + 1)]
    certificate = body.parent_certificate
    assert certificate is not None
    bodies = {
        "no parent certificate": replace(body, parent_certificate=None),
        "the parent certificate is a nullification": replace(body, parent_certificate=chain.nullify(parent.view, 0)),
        "two signers of six": replace(
            body,
            parent_certificate=replace(
                certificate, signers=certificate.signers[:2], signatures=certificate.signatures[:2]
            ),
        ),
        "a nullification of a view that was not skipped": replace(
            body, nullifications=(chain.nullify(header.view, 0),)
        ),
        "a late vote twice": replace(body, late_votes=body.late_votes * 2),
        "a late vote that was counted already": replace(
            body, late_votes=(*body.late_votes, chain.vote(chain.validators[0], chain.blocks[1]))
        ),
        "an operation twice": replace(body, operations=body.operations * 2),
        "validators removed": replace(body, removed=(chain.validators[0].public_key,)),
    }
    headers = {
        "version": 1, "chain_id": bytes(32), "epoch": 1, "height": height + 1, "view": parent.view,
        "parent_id": chain.blocks[1].id, "timestamp": parent.timestamp, "chain_time": header.chain_time + 1,
        "proposer": stranger.public_key, "body_root": bytes(32), "state_root": bytes(32), "history_root": bytes(32),
        "validators_hash": bytes(32), "next_validators_hash": bytes(32), "beacon_reveal": b"\1" * 32,
    }  # fmt: skip
    key = chain.keys[header.proposer]
    forged = [
        (f"header.{name}", sign_block(key, replace(header, **{name: value}), body))  # type: ignore[arg-type]
        for name, value in headers.items()
    ]
    for what, other in bodies.items():
        forged.append((what, sign_block(key, replace(header, body_root=other.root), other)))
    forged.append(("signed by another", sign_block(stranger, header, body)))
    return {
        "description": (
            "Blocks at height 4 of chain.json that are invalid, each in one thing; 'field' is what this implementation "
            "names first, for orientation only."
        ),
        "section": "6",
        "cases": [
            {"what": what, "field": _find_fault(chain.genesis, parent, state, other), "encoded": other.encoded.hex()}
            for what, other in forged
        ],
    }


def _find_fault(genesis: Genesis, parent: Header, state: State, block: Block) -> str:
    try:
        state_transition(genesis, parent, state, block)
    except InvalidBlock as error:
        return error.field
    raise AssertionError("the block is valid")


def make_restart() -> Json:
    """A chain that goes on without two of four validators."""
    chain = Chain(4, 1, stakes=STAKES[:4], parameters=LEDGER_PARAMETERS, name="restarted")
    chain.append()
    chain.append()
    parent, state = chain.head, chain.state
    removed = [key.public_key for key in chain.validators[2:]]
    file = build_restart(chain.genesis, chain.validators[0], parent, state, removed, parent.timestamp + 5_000)
    for key in chain.validators[:2]:
        file = file.add(file.make_vote(key))
    genesis = accept(chain.genesis, file.block.id)
    after = apply_block(genesis, parent, state, file.block).state
    certificate = file.find_certificate(file.check(genesis, parent, state))
    assert certificate is not None
    return {
        "description": "A restart block at height 3 that strikes two of four validators off, and its file.",
        "section": "11",
        "genesis": genesis.encode().hex(),
        "parent_header": parent.encode().hex(),
        "state_before": dump_state(state),
        "file": file.encode().hex(),
        "block": describe_block(genesis, state, after, file.block, certificate, ()),
    }


def make_proofs() -> Json:
    """Proofs of accounts and operations of the chain, from genesis and from a checkpoint."""
    chain = make_ledger_chain()
    store = ChainStore(MemoryStore(), chain.genesis)
    header, state = chain.genesis.header, chain.genesis.state
    for block in chain.blocks[:-1]:  # from genesis no proof leads into epoch 3
        transition = apply_block(chain.genesis, header, state, block)
        store.append([(block, transition)], chain.finality(block))
        header, state = block.header, transition.state
    checkpoint = Checkpoint(8, chain.blocks[7].id)
    hold = chain.blocks[1].body.operations[0]
    cases = [
        ("an account, from genesis", None, prove_balance(store, chain.users[0].public_key)),
        ("an account, from a checkpoint", checkpoint, prove_balance(store, chain.users[0].public_key, checkpoint)),
        ("no such account", checkpoint, prove_balance(store, make_key("stranger").public_key, checkpoint)),
        ("an operation below the checkpoint", checkpoint, prove_operation(store, hold.id, checkpoint)),
        ("an operation, from genesis", None, prove_operation(store, hold.id)),
    ]
    return {
        "description": "Proofs about the first twelve blocks of chain.json; 'checkpoint' is null for genesis.",
        "section": "13",
        "cases": [
            {"what": what, "checkpoint": None if point is None else str(point), "proof": proof.encode().hex()}
            for what, point, proof in cases
        ],
    }


def make_certificates() -> Json:
    """Certificates that are valid or not, and pairs of votes that are slashable or not."""
    chain = Chain(4, 0, stakes=(40, 30, 20, 10), available=0, parameters=replace(PARAMETERS, min_validator_bond=1))
    keys = sorted(chain.validators, key=lambda key: chain.genesis.validators.get_position(key.public_key))
    chain_id, block_id, zero = chain.genesis.chain_id, bytes(range(32)), bytes(32)

    def sign(
        kind: VoteKind, block: bytes, positions: Sequence[int], *, view: int = 5, signed_view: int = 5
    ) -> Certificate:
        votes = [sign_vote(keys[i], chain_id, kind, 2, signed_view, block) for i in positions]
        return Certificate(int(kind), 2, view, block, tuple(positions), tuple(vote.signature for vote in votes))

    whole = sign(VoteKind.NOTARIZE, block_id, (0, 1, 2, 3))
    cases = [
        ("all", whole),
        ("70 of 100", sign(VoteKind.FINALIZE, block_id, (0, 1))),
        ("a nullification", sign(VoteKind.NULLIFY, zero, (0, 2, 3))),
        ("60 of 100", sign(VoteKind.NOTARIZE, block_id, (0, 2))),
        ("no signer", sign(VoteKind.NOTARIZE, block_id, ())),
        ("a signer twice", sign(VoteKind.NOTARIZE, block_id, (0, 0, 2))),
        ("not in order", sign(VoteKind.NOTARIZE, block_id, (1, 0))),
        ("a position outside of the set", replace(whole, signers=(0, 1, 2, 4))),
        ("a signature too few", replace(whole, signatures=whole.signatures[:3])),
        (
            "two signatures exchanged",
            replace(whole, signatures=(*whole.signatures[:2], *reversed(whole.signatures[2:]))),
        ),
        ("signatures of another kind", replace(whole, kind=3)),
        ("signatures over another view", sign(VoteKind.NOTARIZE, block_id, (0, 1, 2), signed_view=6)),
        ("a nullification that names a block", sign(VoteKind.NULLIFY, block_id, (0, 1, 2))),
        ("a notarization that names none", sign(VoteKind.NOTARIZE, zero, (0, 1, 2))),
    ]
    return {
        "description": "Certificates by a committee of stakes 40, 30, 20, 10: valid or not; then pairs of votes.",
        "section": "8.2, 12.3",
        "chain_id": chain_id.hex(),
        "validators": chain.genesis.validators.encode().hex(),
        "validators_hash": chain.genesis.validators.hash.hex(),
        "cases": [{"what": what, "encoded": other.encode().hex(), **_judge(chain, other)} for what, other in cases],
        "exactly_two_thirds": _judge_two_thirds(),
        "pairs": _list_pairs(keys[0], keys[1], chain_id),
    }


def _judge(chain: Chain, certificate: Certificate) -> Json:
    try:
        certificate.verify(chain.genesis.chain_id, chain.genesis.validators)
    except InvalidCertificate as error:
        return {"valid": False, "reason": error.reason}
    return {"valid": True}


def _judge_two_thirds() -> list[Json]:
    cases = [
        ((1, 1, 1), 2),
        ((1, 1, 1), 3),
        ((2**62, 2**61, 1), 1),
        ((2**62, 2**61, 1), 2),
        ((34, 33, 33), 2),
        ((100,), 1),
    ]
    found = []
    for stakes, signers in cases:
        keys = [bytes([number + 1]) * 32 for number in range(len(stakes))]
        members = ValidatorSet.of(zip(keys, stakes, strict=True))
        found.append({"stakes": list(stakes), "first_signers": signers, "quorum": members.is_quorum(keys[:signers])})
    return found


def _list_pairs(key: KeyPair, other: KeyPair, chain_id: bytes) -> list[Json]:
    a, b, none = bytes([1]) * 32, bytes([2]) * 32, bytes(32)
    notarize, nullify, finalize = VoteKind.NOTARIZE, VoteKind.NULLIFY, VoteKind.FINALIZE

    def vote(kind: VoteKind, block: bytes, *, epoch: int = 2, view: int = 5, signer: KeyPair = key) -> Vote:
        return sign_vote(signer, chain_id, kind, epoch, view, block)

    pairs = [
        (vote(notarize, a), vote(notarize, b)),
        (vote(finalize, a), vote(finalize, b)),
        (vote(nullify, none), vote(finalize, a)),
        (vote(notarize, a), vote(notarize, a)),
        (vote(notarize, a), vote(nullify, none)),
        (vote(notarize, a), vote(finalize, b)),
        (vote(notarize, a), vote(notarize, b, view=6)),
        (vote(notarize, a), vote(notarize, b, epoch=3)),
        (vote(notarize, a), vote(notarize, b, signer=other)),
        (vote(nullify, none), vote(nullify, none)),
    ]
    return [
        {"first": first.encode().hex(), "second": second.encode().hex(), "slashable": is_slashable(first, second)}
        for first, second in pairs
    ]
