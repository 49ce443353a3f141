"""A chain on which everything happens, again and again."""

from __future__ import annotations

from dataclasses import replace

from chain.crypto import KeyPair
from chain.types.operations import Dispute, Release, SignedOperation
from tests.support.chain_builder import MODEL, PARAMETERS, Chain
from tests.support.chains.chain_store import Finals

STAKES = (30_000, 25_000, 20_000, 15_000, 10_000)


def make_busy_chain(length: int) -> tuple[Chain, Finals]:
    """A chain on which everything happens again and again, with the certificates that made it final.

    All kinds of operations, some of them failing; holds that are captured with and without receipt, refunded, disputed
    and released; nullified views; one, three and two blocks under one certificate, in turn. The committee changes all
    the time: people enroll and retire, one is absent and jailed, another lies and is slashed, and both return.
    """
    chain = Chain(len(STAKES), stakes=STAKES, parameters=replace(PARAMETERS, deposit_per_byte=1))
    first, second = chain.users
    worker, server, _, absent, _ = chain.validators
    for index in range(length):
        cycle, step = divmod(index, 8)
        seq, attempt, elapsed = 2 * cycle, 1 + cycle % 2, 1_000
        operations: list[SignedOperation] = change_committee(chain)
        match step:
            case 0:
                operations += [chain.hold(first, seq), chain.transfer(first, second, 5)]
                operations.append(chain.transfer(worker, first, 7))
                if cycle:  # a hold of the last round that was not captured
                    operations.append(chain.sign(server, Release(chain.find_hold_id(first, seq - 1))))
            case 1:
                delivery = chain.delivery(first, seq, amount=0 if cycle % 3 == 2 else 900)
                operations += [chain.capture(get_payee(chain, first, seq), chain.receipt(first, delivery))]
            case 2:
                operations += [chain.hold(second, seq, attempt), chain.bond(worker, 500)]
            case 3:
                delivery, payee = chain.delivery(second, seq, attempt), get_payee(chain, second, seq, attempt)
                is_backed = chain.account(payee).free_bond >= delivery.amount  # or it was slashed
                operations += [chain.capture(payee, delivery if is_backed else chain.receipt(second, delivery))]
                operations.append(chain.transfer(first, second, 10_000_000))  # fails
            case 4:
                operations += [chain.unbond(worker, 300)]
                hold = chain.state.hold(chain.find_hold_id(second, seq, attempt))
                if cycle % 2 and hold is not None:
                    operations.append(chain.sign(second, Dispute(chain.find_hold_id(second, seq, attempt))))
            case 5:
                operations += [chain.hold(first, seq + 1, lifetime=2_500), chain.serve(server, MODEL)]
            case 6:
                operations += [chain.withdraw(worker)]  # fails while nothing has finished unbonding
            case 7:
                elapsed = 3_000
        # One misses a whole epoch now and then; else its votes for the first block of each come late.
        epoch, place = divmod(index, chain.genesis.parameters.epoch_heights)
        is_member = absent.public_key in chain.epoch.validators
        voters = [key for key in chain.keys.values() if key is not absent]
        is_away, late_votes = epoch % YEAR == 1, []
        if place == 2 and is_member and not is_away:
            late_votes = [chain.vote(absent, chain.blocks[-2])]
        chain.append(
            operations,
            elapsed=elapsed,
            skipped=2 if index % 5 == 3 else 0,
            voters=voters if place and (is_away or place == 1) else None,
            late_votes=late_votes,
        )
    finals, ends = {}, 0
    for number in range(length):
        ends += (1, 3, 2)[number % 3]
        if ends >= length:
            break
        finals[ends] = chain.finality(chain.blocks[ends - 1])
    finals[length] = chain.finality(chain.blocks[-1])
    return chain, finals


YEAR = 12
"""Epochs after which the committee goes through the same again."""


def change_committee(chain: Chain) -> list[SignedOperation]:
    """What those do in the next block who come, go, lie or return: at the second height of an epoch, if at all."""
    first, second = chain.users
    _, _, careful, absent, liar = chain.validators
    epoch, place = divmod(chain.head.height, chain.genesis.parameters.epoch_heights)
    if place != 1:
        return []
    match epoch % YEAR:
        case 0 if epoch == 0:
            return [
                chain.bond(first, 12_000),
                chain.enroll(first, nonce=chain.account(first).nonce + 1),
                chain.bond(second, 5_000),
                chain.enroll(second, nonce=1),
            ]
        case 2:
            return [chain.unjail(absent), chain.evidence(second, liar)]
        case 3:
            return [chain.recommit(careful, 1 + epoch // YEAR), chain.retire(second)]
        case 4:
            return [chain.bond(liar, 10_000), chain.unjail(liar, nonce=chain.account(liar).nonce + 1)]
        case 6:
            return [chain.enroll(second, hash_chain=1 + epoch // YEAR)]
    return []


def get_payee(chain: Chain, payer: KeyPair, seq: int, attempt: int = 0) -> KeyPair:
    """Who may capture an open hold."""
    hold = chain.state.hold(chain.find_hold_id(payer, seq, attempt))
    assert hold is not None
    return chain.keys[hold.payee]
