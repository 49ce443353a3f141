"""First credits: what a newcomer must show, what it gets, and what that is good for."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from chain.audit.audit import audit_chain
from chain.audit.sources import StoreSource
from chain.crypto import hash_bytes
from chain.exceptions import InvalidBlock
from chain.state.lottery import compute_lottery_seed
from chain.state.state import compute_supply
from chain.store.kv import MemoryStore
from chain.store.writer import ChainStore
from chain.transition.fees import compute_fee
from chain.transition.validators.registration import (
    compute_challenge,
    count_registrations_left,
    has_valid_proof_of_work,
    is_valid_proof_of_work,
)
from chain.types.operations import Register, SignedOperation
from tests.support.chain_builder import MODEL, Chain
from tests.support.chains.chain_store import fill_store
from tests.support.chains.newcomers import GRANT, GRANTING, find_salt, register
from tests.support.keys import make_key


def make_chain() -> Chain:
    return Chain(parameters=GRANTING)


def refuse(chain: Chain, *operations: SignedOperation) -> str:
    """Why the last of these cannot stand in a block."""
    _, _, rejected = chain.propose(operations)
    assert [operation for operation, _ in rejected] == [operations[-1]]
    return rejected[0][1]


def test_a_newcomer_gets_a_bond_and_pays_nothing() -> None:
    chain, newcomer = make_chain(), make_key("newcomer")
    before = chain.genesis.supply
    chain.append([register(chain, newcomer)])
    account = chain.account(newcomer)
    assert (account.available, account.bonded, account.grant, account.models) == (0, GRANT, GRANT, (MODEL,))
    assert chain.state.totals.supply == before + GRANT == compute_supply(chain.state)
    assert count_registrations_left(chain.state, chain.genesis) == 1


def test_a_grant_cannot_leave_the_bond() -> None:
    chain, newcomer = make_chain(), make_key("newcomer")
    chain.append([register(chain, newcomer)])
    chain.append([chain.transfer(chain.users[0], newcomer, 10_000)])
    chain.append([chain.unbond(newcomer, 1)])
    assert "grant" in (chain.failures[-1][0] or "")
    chain.append([chain.bond(newcomer, 100)])
    chain.append([chain.unbond(newcomer, 101)])
    assert "grant" in (chain.failures[-1][0] or "")
    chain.append([chain.unbond(newcomer, 100)])
    assert chain.failures[-1] == (None,) and chain.account(newcomer).bonded == GRANT


def test_who_has_done_anything_is_no_newcomer() -> None:
    chain, newcomer = make_chain(), make_key("newcomer")
    assert "done nothing yet" in refuse(chain, register(chain, chain.validators[0]))
    chain.append([register(chain, newcomer)])
    assert "done nothing yet" in refuse(chain, register(chain, newcomer))
    payer = chain.users[0]
    chain.append([chain.transfer(payer, newcomer, 1)])
    assert "done nothing yet" in refuse(chain, register(chain, payer))


def test_sending_credit_to_a_newcomer_does_not_keep_it_out() -> None:
    chain, newcomer = make_chain(), make_key("newcomer")
    before = chain.genesis.supply
    chain.append([chain.transfer(chain.users[0], newcomer, 1), register(chain, newcomer)])
    account = chain.account(newcomer)
    assert (account.available, account.bonded, account.grant) == (1, GRANT, GRANT)
    assert chain.state.totals.supply == before + GRANT == compute_supply(chain.state)


def test_the_cap_holds_for_an_epoch() -> None:
    chain = make_chain()
    newcomers = [make_key(f"newcomer {number}") for number in range(3)]
    operations = [register(chain, key) for key in newcomers]
    assert "limit" in refuse(chain, *operations)
    chain.append(operations[:2])
    assert "limit" in refuse(chain, operations[2])
    chain.append_epochs(1)
    chain.append([operations[2]])  # the proof is good for one epoch more
    assert chain.account(newcomers[2]).bonded == GRANT


def test_a_proof_is_of_one_account_and_soon_worthless() -> None:
    chain, newcomer = make_chain(), make_key("newcomer")
    salt = find_salt(chain, newcomer)
    source = chain.state.beacon.get_epoch_seed(0)
    assert source is not None
    bad = next(
        number.to_bytes(16, "big")
        for number in range(1000)
        if not is_valid_proof_of_work(
            compute_challenge(chain.genesis, source, newcomer.public_key), number.to_bytes(16, "big"), 2
        )
    )
    assert "proof" in refuse(chain, register(chain, newcomer, salt=bad))
    stranger = next(
        key
        for number in range(100)
        if not is_valid_proof_of_work(
            compute_challenge(chain.genesis, source, (key := make_key(f"stranger {number}")).public_key), salt, 2
        )
    )
    assert "proof" in refuse(chain, register(chain, stranger, salt=salt))
    assert "neither" in refuse(chain, register(chain, newcomer, epoch=1))
    early = register(chain, newcomer)
    chain.append_epochs(2)
    assert "neither" in refuse(chain, early)


def test_a_chain_without_grants_refuses_without_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    chain, newcomer = Chain(), make_key("newcomer")
    monkeypatch.setattr(
        "chain.transition.validators.registration.is_valid_proof_of_work", lambda *_: pytest.fail("computed a proof")
    )
    operation = chain.sign(newcomer, Register(0, bytes(16), (MODEL,)))
    assert "grants nothing" in refuse(chain, operation)


def test_models_must_be_sorted() -> None:
    chain = make_chain()
    assert "sorted" in refuse(chain, register(chain, make_key("newcomer"), models=("b", "a")))


def test_newcomers_get_their_share_of_the_draws_and_no_more() -> None:
    chain = make_chain()
    newcomers = [make_key(f"newcomer {number}") for number in range(2)]
    chain.append([register(chain, key) for key in newcomers])
    chain.append_epochs(3)
    table = chain.state.serving_table(chain.first_round)
    assert table is not None
    assert {entry.public_key: entry.stake for entry in table.entries if not entry.stake} == {
        key.public_key: 0 for key in newcomers
    }
    lottery, payer = table.lottery(MODEL), chain.users[0].public_key
    drawn = Counter(
        lottery.get_executor(compute_lottery_seed(hash_bytes("source"), payer, seq), payer, 0) for seq in range(4_000)
    )
    share = sum(drawn[key.public_key] for key in newcomers) / 4_000
    assert 0.035 < share < 0.065  # 50 thousandths, whatever their number
    order = list(lottery.order(compute_lottery_seed(hash_bytes("source"), payer, 1), payer))
    assert len(order) == len(set(order)) == len(table.entries)


def test_a_newcomer_earns_what_others_earn() -> None:
    chain, newcomer = make_chain(), make_key("newcomer")
    chain.keys[newcomer.public_key] = newcomer
    chain.append([register(chain, newcomer)])
    chain.append_epochs(2)
    payer = chain.users[0]
    seq = next(seq for seq in range(500) if chain.executor(payer, seq) is newcomer)
    for step in range(seq // 200 + 1):  # the window moves with the numbers that are used
        chain.append([chain.hold(payer, min(seq, 200 * (step + 1)))])
    chain.append([chain.capture(newcomer, chain.receipt(payer, chain.delivery(payer, seq)))])
    account = chain.account(newcomer)
    assert account.available == 0 < account.own_bond, "its first income is bonded"


def test_the_audit_counts_grants_and_refuses_credit_from_nowhere() -> None:
    chain, newcomer = make_chain(), make_key("newcomer")
    chain.append([register(chain, newcomer)])
    finals = {1: chain.finality(chain.blocks[0])}
    store = MemoryStore()
    blocks: ChainStore = fill_store(store, chain, finals)
    report = audit_chain(StoreSource(store), threads=1)
    assert report.ok and report.supply == chain.genesis.supply + GRANT, report.fault
    assert blocks.height == 1


def test_a_block_with_one_newcomer_too_many_is_invalid() -> None:
    chain = make_chain()
    chain.append([register(chain, make_key(f"newcomer {number}")) for number in range(2)])
    block, transition, _ = chain.propose()
    late = register(chain, make_key("late"))
    forged = replace(block, body=replace(block.body, operations=(late,)))
    with pytest.raises(InvalidBlock):
        chain.accept(forged, transition)


def test_a_grant_is_no_stake_to_vote_with() -> None:
    parameters = replace(GRANTING, register_grant=GRANTING.min_validator_bond)
    chain, newcomer = Chain(parameters=parameters), make_key("newcomer")
    chain.append([register(chain, newcomer)])
    chain.append([chain.transfer(chain.users[0], newcomer, 10_000)])
    chain.append([chain.enroll(newcomer)])
    assert "at least" in (chain.failures[-1][0] or "")
    chain.append([chain.bond(newcomer, GRANTING.min_validator_bond)])
    chain.append([chain.enroll(newcomer)])
    assert chain.failures[-1] == (None,)
    chain.append_epochs(3)
    assert chain.weight(newcomer, chain.next_epoch) == GRANTING.min_validator_bond
    assert chain.account(newcomer).bonded == 2 * GRANTING.min_validator_bond


def test_a_proof_is_looked_at_only_where_it_may_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checking one costs memory and time, and an operation that is refused pays nothing."""
    monkeypatch.setattr(
        "chain.transition.validators.registration.is_valid_proof_of_work", lambda *_: pytest.fail("computed a proof")
    )
    bad = Register(0, bytes(16), ())
    plain, granting, newcomer = Chain(), make_chain(), make_key("newcomer")
    assert has_valid_proof_of_work(plain.genesis, plain.state, plain.sign(newcomer, bad)) is None
    assert has_valid_proof_of_work(granting.genesis, granting.state, granting.sign(granting.validators[0], bad)) is None
    assert (
        has_valid_proof_of_work(granting.genesis, granting.state, granting.sign(newcomer, replace(bad, epoch=7)))
        is None
    )
    assert has_valid_proof_of_work(plain.genesis, plain.state, plain.transfer(plain.users[0], newcomer, 1)) is True
    monkeypatch.setattr("chain.transition.validators.registration.is_valid_proof_of_work", lambda *_: False)
    assert has_valid_proof_of_work(granting.genesis, granting.state, granting.sign(newcomer, bad)) is False


def test_a_slashed_grant_pays_the_finder_nothing() -> None:
    chain, newcomer = make_chain(), make_key("newcomer")
    payer, finder = chain.users
    chain.append([register(chain, newcomer), chain.transfer(payer, newcomer, 50_000)])
    chain.append([chain.bond(newcomer, 10_000)])
    chain.append([chain.enroll(newcomer)])
    account, earner, treasury = chain.account(newcomer), chain.account(finder), chain.state.totals.treasury
    assert (account.bonded, account.grant) == (10_000 + GRANT, GRANT)
    evidence = chain.evidence(finder, newcomer)
    chain.append([evidence])
    fee = compute_fee(chain.genesis, evidence)
    assert (chain.account(newcomer).bonded, chain.account(newcomer).grant) == (0, 0)
    assert chain.account(finder).available == earner.available - fee + 1_000, "a tenth of the bond beside the grant"
    assert chain.state.totals.treasury == treasury + fee + 9_000 + GRANT
