"""Accounts that fill the pool with what they cannot pay for any more once their first operation is included."""

from __future__ import annotations

import pytest

from chain.crypto import KeyPair, hash_bytes
from chain.genesis import Genesis, GenesisAccount, make_genesis, make_validator
from chain.parameters.parameters import CREDIT, Parameters
from chain.transition.block import build_block
from chain.types.blocks import MAX_BLOCK_BYTES
from chain.types.operations import Serve, SignedOperation, Transfer, sign_operation
from consensus.mempool import packing as selection
from consensus.mempool.pool import Mempool
from p2p.simulation.runtime import SimulatedRuntime
from tests.support.chain_builder import find_reveal
from tests.support.keys import make_key

VALIDATOR = make_key(1)
FILLERS = [KeyPair(hash_bytes("filler", bytes([number]))) for number in range(100)]
PAYERS = [KeyPair(hash_bytes("payer", bytes([number]))) for number in range(10)]
MODELS = tuple(chr(97 + number) * 128 for number in range(16))


def make_world() -> Genesis:
    parameters = Parameters(epoch_heights=1_024, min_validator_bond=100 * CREDIT)
    accounts = [make_validator(VALIDATOR, bytes(32), parameters, 1_000 * CREDIT, 100 * CREDIT)]
    accounts += [GenesisAccount(key.public_key, CREDIT, 0, (), None) for key in FILLERS + PAYERS]
    return make_genesis("test", SimulatedRuntime.EPOCH_MS, bytes(32), accounts, parameters)


GENESIS = make_world()


def fill_pool() -> tuple[Mempool, set[bytes]]:
    """A pool of ten honest accounts with 64 payments each and a hundred fillers; the ids of the honest operations."""
    pool = Mempool(GENESIS, GENESIS.header, GENESIS.state)
    honest: set[bytes] = set()

    def add(key: KeyPair, operation: Transfer | Serve) -> SignedOperation:
        signed = sign_operation(key, GENESIS.chain_id, operation)
        pool.add(signed, 0.0)
        return signed

    for key in PAYERS:
        honest.update(add(key, Transfer(nonce, VALIDATOR.public_key, 1, bytes(32))).id for nonce in range(64))
    for key in FILLERS:
        add(key, Transfer(0, VALIDATOR.public_key, CREDIT - 300))
        for nonce in range(1, 60):
            add(key, Serve(nonce, MODELS))
    return pool, honest


def build(pool: Mempool) -> tuple[set[bytes], int]:
    """The ids of the operations in the next block, and how many were turned down."""
    operations = pool.draw(MAX_BLOCK_BYTES)
    block, _, rejected = build_block(
        GENESIS, VALIDATOR, GENESIS.header, GENESIS.state, operations,
        view=1, timestamp=GENESIS.timestamp + 1, reveal=find_reveal(VALIDATOR, GENESIS, GENESIS.state),
        parent_certificate=None, nullifications=(), on_rejected=operations.reject,
    )  # fmt: skip
    return {operation.id for operation in block.body.operations}, len(rejected)


def test_what_cannot_be_included_takes_no_room_from_what_can() -> None:
    pool, honest = fill_pool()
    assert len(pool.select(MAX_BLOCK_BYTES)) < len(honest)  # more is pending than fits
    included, rejected = build(pool)
    assert honest <= included
    assert rejected == len(FILLERS)  # one of each: what comes after it in its line is not even looked at


@pytest.mark.parametrize("most", [10, 50])
def test_how_much_is_tried_in_vain_is_bounded(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "REJECTED_WORK_BUDGET", most)
    assert build(fill_pool()[0])[1] == most
