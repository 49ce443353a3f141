"""A chain of one validator, whose blocks are final at once, and payments on it, for the tests of the mempool."""

from __future__ import annotations

from collections.abc import Iterable

from chain.genesis import Genesis, GenesisAccount, make_genesis, make_validator
from chain.parameters.parameters import CREDIT, Parameters
from chain.transition.block import Transition, build_block
from chain.transition.epochs import get_next_epoch
from chain.transition.payments import get_executor
from chain.types.blocks import Block
from chain.types.operations import (
    Capture,
    CaptureItem,
    Delivery,
    Hold,
    SignedOperation,
    Usage,
    compute_hold_id,
    sign_operation,
)
from consensus.mempool.pool import (
    Mempool,
)
from tests.support.chain_builder import find_reveal
from tests.support.consensus_world import make_equal_genesis
from tests.support.keys import make_key

GENESIS = make_equal_genesis(1, others=9)
PARAMETERS = Parameters(epoch_heights=1_024, min_validator_bond=100 * CREDIT)
MARKET = make_genesis(
    "market",
    0,
    bytes(32),
    [
        make_validator(make_key(1), bytes(32), PARAMETERS, 100 * CREDIT, 100 * CREDIT, ("m",)),
        *(GenesisAccount(make_key(n).public_key, 100 * CREDIT, 100 * CREDIT, ("m",), None) for n in (2, 3)),
    ],
    PARAMETERS,
)
"""Three that serve: the validator, and two that do not vote."""


class Chain:
    """Blocks by the only validator, final at once."""

    def __init__(self, genesis: Genesis = GENESIS) -> None:
        self.genesis = genesis
        self.header, self.state = genesis.header, genesis.state

    def extend(self, operations: Iterable[SignedOperation], seconds: int = 1) -> tuple[Block, Transition]:
        key = make_key(1)
        assert get_next_epoch(self.genesis, self.state).compute_leader(self.header.view + 1) == key.public_key
        block, transition, _ = build_block(
            self.genesis, key, self.header, self.state, operations,
            view=self.header.view + 1, timestamp=self.header.timestamp + seconds * 1000,
            reveal=find_reveal(key, self.genesis, self.state), parent_certificate=None, nullifications=(),
        )  # fmt: skip
        self.header, self.state = block.header, transition.state
        return block, transition

    def make_final(self, pool: Mempool, operations: Iterable[SignedOperation], now: float = 0.0) -> Block:
        block, transition = self.extend(operations)
        pool.on_final(block, transition.state, transition.changes, now)
        return block


def make_hold(seq: int, genesis: Genesis = GENESIS, amount: int = 1_000, attempt: int = 0) -> SignedOperation:
    key = make_key(3)
    payee = get_executor(genesis.state, 0, key.public_key, seq, attempt, "m") or bytes(32)
    hold = Hold(payee, amount, 0, seq, attempt, "m", bytes(32), 600_000)
    return sign_operation(key, genesis.chain_id, hold)


def make_capture(hold: SignedOperation, amount: int = 0) -> SignedOperation:
    assert isinstance(hold.operation, Hold)
    payee = next(make_key(n) for n in (1, 2, 3) if make_key(n).public_key == hold.operation.payee)
    hold_id = compute_hold_id(hold.signer, hold.operation)
    item = CaptureItem(Delivery(hold_id, amount, bytes(32), Usage(1, 1), "stop"), None)
    return sign_operation(payee, MARKET.chain_id, Capture((item,)))
