"""Wealthy accounts fill the mempool with operations that they need not pay for yet."""

from __future__ import annotations

from chain.exceptions import InvalidOperation
from chain.genesis import GenesisAccount, make_genesis, make_validator
from chain.parameters.parameters import CREDIT, Parameters
from chain.types.operations import Operation, Serve, SignedOperation, Transfer, sign_operation
from consensus.mempool.pool import MAX_NONCED, Mempool
from tests.adversarial.attacks.table import Attack, Outcome
from tests.support.keys import make_key

WEALTHY, NEWCOMERS = 8, 16
POOL_BYTES = 512 * 1024
MODELS = tuple(sorted(f"{number:02}{'x' * 120}" for number in range(16)))


def run() -> Outcome:
    """The wealthy own 10,000 credits each, newcomers one."""
    parameters = Parameters(min_validator_bond=100 * CREDIT)
    wealthy = [make_key(f"wealthy {number}") for number in range(WEALTHY)]
    newcomers = [make_key(f"newcomer {number}") for number in range(NEWCOMERS)]
    accounts = [make_validator(make_key(1), bytes(32), parameters, 1_000 * CREDIT, 100 * CREDIT)]
    credits = dict.fromkeys(wealthy, 10_000 * CREDIT) | dict.fromkeys(newcomers, CREDIT)
    accounts += [GenesisAccount(key.public_key, amount, 0, (), None) for key, amount in credits.items()]
    genesis = make_genesis("wealth", 1_700_000_000_000, bytes(32), accounts, parameters)
    pool = Mempool(genesis, genesis.header, genesis.state, max_bytes=POOL_BYTES)

    def add(number: int, operation: Operation) -> SignedOperation | None:
        signed = sign_operation([*wealthy, *newcomers][number], genesis.chain_id, operation)
        try:
            pool.add(signed, 0.0)
        except InvalidOperation:
            return None
        return signed

    def flood() -> None:
        for nonce in range(MAX_NONCED):
            for number in range(WEALTHY):
                add(number, Serve(nonce, MODELS))

    flood()
    assert pool.size > POOL_BYTES - 4_096
    paid = [add(WEALTHY + number, Transfer(0, wealthy[0].public_key, 1)) for number in range(NEWCOMERS)]
    flood()
    shut_out = sum(signed is None or signed.id not in pool for signed in paid)
    return Outcome(0, shut_out, shut_out, f"{NEWCOMERS} newcomers of one credit each", "newcomers shut out")


ATTACK = Attack(
    "wealthy accounts fill the mempool",
    before=Outcome(0, 16, 16, "16 newcomers of one credit each", "newcomers shut out"),
    run=run,
)
