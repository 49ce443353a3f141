"""Restart by decree: what makes a restart block, who may make one, and how the audit tells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from chain.audit.audit import audit_chain
from chain.audit.proof_builder import prove_balance
from chain.audit.sources import StoreSource
from chain.cli.report_text import describe_report
from chain.exceptions import InvalidBlock, RestartError
from chain.genesis import Genesis
from chain.light.client import Checkpoint
from chain.light.proofs import check_proof
from chain.state.state import compute_supply
from chain.store.kv import MemoryStore
from chain.store.writer import ChainStore
from chain.transition.block import state_transition
from chain.transition.restart import VIEW_JUMP, is_restart
from chain.transition.restart_file import RestartFile, accept
from chain.types.blocks import NO_REVEAL, Block, Body, sign_block
from chain.types.votes import Certificate, VoteKind, make_certificate, sign_vote
from tests.support.chain_builder import PARAMETERS, Chain
from tests.support.chains.chain_store import fill_store
from tests.support.chains.restarted_chain import append_after, go_on, make_halted, propose


@pytest.mark.parametrize("length", [0, 3, 4, 6, 7, 8])
def test_a_chain_goes_on_without_those_who_are_gone(length: int) -> None:
    """Wherever in an epoch (of four heights) it stops, genesis and the border included."""
    chain = make_halted(length)
    gone = [key.public_key for key in chain.validators[2:]]
    certificate = go_on(chain, propose(chain))
    assert is_restart(chain.head) and chain.head.view >= VIEW_JUMP
    assert not any(key in chain.epoch.validators or key in chain.epoch.next_validators for key in gone)
    append_after(chain, certificate)
    for _ in range(12):
        chain.append()
    assert not any(key in chain.epoch.validators for key in gone)
    assert compute_supply(chain.state) == chain.genesis.supply
    assert all(chain.state.account(key).bonded == 100_000 for key in gone)  # struck off, not punished


def test_the_audit_says_where_trust_was_broken_and_refuses_what_its_reader_does_not_accept() -> None:
    chain = make_halted()
    finals = {height: chain.finality(chain.blocks[height - 1]) for height in (4, 6)}
    finals[7] = go_on(chain, propose(chain))
    finals[8] = chain.finality(append_after(chain, finals[7]))
    chain.append()
    finals[9] = chain.finality(chain.blocks[-1])
    store = MemoryStore()
    fill_store(store, chain, finals)
    report = audit_chain(StoreSource(store), threads=1)
    assert report.ok, report.fault
    (restart,) = report.restarts
    assert (restart.height, restart.block_id, restart.removed) == (7, chain.blocks[6].id, 2)
    assert restart.share == 0.5
    doubter = StoreSource(store)
    doubter.genesis = replace(chain.genesis, restarts=())
    fault = audit_chain(doubter, threads=1).fault
    assert fault is not None and (fault.height, fault.field) == (7, "restart")
    assert chain.blocks[6].id.hex() in fault.reason


def test_the_audit_of_a_pruned_chain_names_a_restart_that_is_not_there_any_more() -> None:
    chain = make_halted()
    finals = {height: chain.finality(chain.blocks[height - 1]) for height in (4, 6)}
    finals[7] = go_on(chain, propose(chain))
    finals[8] = chain.finality(append_after(chain, finals[7]))
    for height in range(9, 23):
        chain.append()
        finals[height] = chain.finality(chain.blocks[-1])
    store = MemoryStore()
    pruned = fill_store(store, chain, finals, keep_epochs=1)
    assert pruned.base.height > 7
    report = audit_chain(StoreSource(store), threads=1)
    assert report.ok and report.is_proven, report.fault
    (restart,) = report.restarts
    assert (restart.height, restart.block_id) == (7, chain.blocks[6].id)
    text = describe_report(report)
    assert "TRUST BREAK  block 7" in text and "but for the restarts named below" in text


def restart_again(chain: Chain, finals: dict[int, Certificate], remain: int) -> None:
    """All but the first ``remain`` validators are struck off; one more block follows."""
    file = propose(chain, removed=[each.public_key for each in chain.epoch.validators][remain:])
    for key in chain.validators:
        if key.public_key not in file.block.body.removed and key.public_key in chain.epoch.validators:
            file = file.add(file.make_vote(key))
    certificate = file.find_certificate(file.check(chain.genesis, chain.head, chain.state))
    assert certificate is not None
    chain.genesis = accept(chain.genesis, file.block.id)
    chain.accept(file.block, state_transition(chain.genesis, chain.head, chain.state, file.block))
    finals[chain.head.height] = certificate
    finals[chain.head.height + 1] = chain.finality(append_after(chain, certificate))


@pytest.mark.parametrize("keep", [0, 1])
def test_balances_are_proven_across_restarts(keep: int) -> None:
    """Two in one epoch, each with the validators that it left, and where the blocks are gone too."""
    chain = Chain(validators=7, parameters=replace(PARAMETERS, epoch_heights=6, unbonding_epochs=9))
    ranked = [each.public_key for each in chain.genesis.validators]
    chain.validators.sort(key=lambda key: ranked.index(key.public_key))
    finals: dict[int, Certificate] = {}

    def go(length: int) -> None:
        for _ in range(length):
            chain.append()
            finals[chain.head.height] = chain.finality(chain.blocks[-1])

    go(1)
    restart_again(chain, finals, 5)
    restart_again(chain, finals, 2)
    assert chain.head.height == 5 and chain.next_epoch == 0
    go(19)
    store = MemoryStore()
    blocks = fill_store(store, chain, finals, keep_epochs=keep)
    assert (blocks.base.height > 5) == bool(keep)
    assert len(audit_chain(StoreSource(store), threads=1).restarts) == 2
    reopened = ChainStore(store, chain.genesis, keep)
    for height in (0, 2, 4, 6, 12, 24) if not keep else (0, 2, 4, 6, 24):
        checkpoint = Checkpoint(height, chain.blocks[height - 1].id) if height else None
        statement = check_proof(
            chain.genesis, checkpoint, prove_balance(reopened, chain.users[0].public_key, checkpoint)
        )
        assert [header.height for header in statement.restarts] == [each for each in (2, 4) if each > height]


def test_the_chain_id_is_that_of_before() -> None:
    chain = make_halted()
    assert accept(chain.genesis, bytes(32)).chain_id == chain.genesis.chain_id
    again = accept(accept(chain.genesis, bytes(32)), bytes(32))
    assert again.restarts == (bytes(32),)
    assert Genesis.decode(again.encode()) == again


def test_who_remains_must_agree() -> None:
    chain = make_halted()
    file = propose(chain)
    epoch = file.check(chain.genesis, chain.head, chain.state)
    assert file.find_certificate(epoch) is None
    alone = file.add(file.make_vote(chain.validators[0]))
    assert alone.find_certificate(epoch) is None  # one of two equals
    assert alone.add(alone.make_vote(chain.validators[0])) == alone
    assert alone.add(alone.make_vote(chain.validators[1])).find_certificate(epoch) is not None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda chain, file: file.add(file.make_vote(chain.validators[3])), "none of the validators that remain"),
        (lambda chain, file: file.add(replace(file.make_vote(chain.validators[1]), view=7)), "not for this restart"),
        (lambda chain, file: file.add(replace(file.make_vote(chain.validators[1]), signature=bytes(64))), "not for"),
        (
            lambda chain, file: file.add(
                sign_vote(chain.validators[1], chain.genesis.chain_id, VoteKind.NOTARIZE, 1, VIEW_JUMP, file.block.id)
            ),
            "not for this restart",
        ),
    ],
)
def test_a_vote_that_does_not_count_is_named(make: Callable[[Chain, RestartFile], RestartFile], message: str) -> None:
    chain = make_halted()
    with pytest.raises(RestartError, match=message):
        make(chain, propose(chain)).check(chain.genesis, chain.head, chain.state)


def test_a_file_with_two_votes_of_one_validator_is_refused() -> None:
    """The certificate made of them would name it twice: no node that had written it could go on, nor start."""
    chain = make_halted()
    file = propose(chain)
    for key in chain.validators[:2]:
        file = file.add(file.make_vote(key))
    for twice in file.votes:
        bad = RestartFile.read(replace(file, votes=(*file.votes, twice)).encode())
        with pytest.raises(RestartError, match="two votes of one validator"):
            bad.check(chain.genesis, chain.head, chain.state)
        epoch = file.check(chain.genesis, chain.head, chain.state)
        with pytest.raises(RestartError, match="strictly increasing"):
            bad.find_certificate(epoch)
    unsigned = replace(file, votes=(file.votes[0], replace(file.votes[1], signature=bytes(64))))
    with pytest.raises(RestartError, match="bad signature"):
        unsigned.find_certificate(file.check(chain.genesis, chain.head, chain.state))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("chain_id", bytes(32)),
        ("epoch", 0),
        ("view", 6),
        ("height", 9),
        ("chain_time", 10**9),
        ("state_root", bytes(32)),
        ("history_root", bytes(32)),
        ("next_validators_hash", bytes(32)),
    ],
)
def test_a_restart_that_would_not_be_a_block_is_refused_before_it_is_signed(field: str, value: object) -> None:
    """Its view and epoch above all: the vote for it could contradict one of before, and its signer be slashed."""
    chain = make_halted()
    file = propose(chain)
    header = replace(file.block.header, **{field: value})
    forged = RestartFile(sign_block(chain.validators[0], header, file.block.body), ())
    with pytest.raises(RestartError, match=field):
        forged.check(chain.genesis, chain.head, chain.state)
    unsigned = RestartFile(replace(file.block, signature=bytes(64)), ())
    with pytest.raises(RestartError, match="signature"):
        unsigned.check(chain.genesis, chain.head, chain.state)


def test_a_restart_is_of_the_last_final_block_only() -> None:
    chain = make_halted()
    file = propose(chain)
    chain.append()
    with pytest.raises(RestartError, match="goes on from block 6"):
        file.check(chain.genesis, chain.head, chain.state)


def test_nonsense_is_no_restart_file() -> None:
    chain = make_halted()
    with pytest.raises(RestartError, match="not a restart file"):
        RestartFile.read(b"nonsense")
    with pytest.raises(RestartError, match="no restart block"):
        RestartFile.read(RestartFile(chain.blocks[0], ()).encode())
    assert RestartFile.read(propose(chain).encode()) == propose(chain)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"removed": []}, "empty"),
        ({"removed": [bytes(32)]}, "no validator"),
    ],
)
def test_whom_to_strike_off_must_make_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RestartError, match=message):
        propose(make_halted(), **changes)


def test_only_one_that_remains_proposes() -> None:
    chain = make_halted()
    with pytest.raises(RestartError, match="only a validator that remains"):
        propose(chain, key=chain.validators[3])
    with pytest.raises(RestartError):
        propose(chain, removed=[key.public_key for key in chain.validators])


def forge(chain: Chain, file: RestartFile, **body: Any) -> Block:
    """The restart block with something else in its body, and a header that agrees with it."""
    changed = replace(file.block.body, **body)
    header = replace(file.block.header, body_root=changed.root)
    return sign_block(chain.validators[0], header, changed)


@pytest.mark.parametrize("part", ["operations", "parent_certificate", "late_votes", "removed"])
def test_a_restart_block_carries_nothing_else(part: str) -> None:
    chain = make_halted()
    file = propose(chain)
    vote = sign_vote(chain.validators[0], chain.genesis.chain_id, VoteKind.NOTARIZE, 1, 1, bytes(32))
    content = {
        "operations": (chain.transfer(chain.users[0], chain.users[1], 5),),
        "parent_certificate": chain.finality(chain.blocks[-1]),
        "late_votes": (vote,),
        "removed": tuple(reversed(file.block.body.removed)),
    }
    block = forge(chain, file, **{part: content[part]})
    with pytest.raises(InvalidBlock) as error:
        state_transition(accept(chain.genesis, block.id), chain.head, chain.state, block)
    assert error.value.field in ("body", "removed")


def test_another_block_removes_no_validator() -> None:
    chain = make_halted()
    block, _, _ = chain.propose()
    leader = chain.keys[block.header.proposer]
    body = Body((), block.body.parent_certificate, (), (), (chain.validators[3].public_key,))
    for reveal in (block.header.beacon_reveal, NO_REVEAL):
        header = replace(block.header, body_root=body.root, beacon_reveal=reveal)
        forged = sign_block(leader, header, body)
        with pytest.raises(InvalidBlock):
            state_transition(accept(chain.genesis, forged.id), chain.head, chain.state, forged)


def test_two_restarts_of_one_block_are_one_view() -> None:
    """So that a validator that signs both signs two finalize in one view, which is slashable."""
    chain = make_halted()
    one, other = propose(chain), propose(chain, timestamp=chain.head.timestamp + 6_000)
    assert one.block.id != other.block.id and one.block.header.view == other.block.header.view
    votes = [file.make_vote(chain.validators[1]) for file in (one, other)]
    assert votes[0].view == votes[1].view and votes[0].epoch == votes[1].epoch


def test_finality_of_a_restart_needs_the_stake_that_remains() -> None:
    chain = make_halted()
    finals = {height: chain.finality(chain.blocks[height - 1]) for height in (4, 6)}
    file = propose(chain)
    go_on(chain, file)
    alone = make_certificate([file.make_vote(chain.validators[0])], chain.epoch.validators)
    store = MemoryStore()
    fill_store(store, chain, {**finals, 7: alone})
    fault = audit_chain(StoreSource(store), threads=1).fault
    assert fault is not None and (fault.height, fault.field) == (7, "finality")
