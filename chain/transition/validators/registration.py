"""First credits: an account that has nothing gets a small bond, for a proof of work that cannot be made in advance.

The proof is a salt with which Argon2id (RFC 9106), over the account and the beacon, gives a hash below a target. It is
memory-hard, so that no special hardware makes it cheap, and it soon expires, so that none are stockpiled. The grant is
bonded from the start and stays bonded: it gives a newcomer a stake to serve with, which can be lost, but can neither be
spent nor give a vote. The genesis sets amount, difficulty and number per epoch; a grant of 0, the default, turns it
off.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

from chain.codec import MAX_INT
from chain.crypto import argon2id, hash_bytes
from chain.exceptions import InvalidOperation
from chain.genesis import Genesis
from chain.state.keys import REGISTRATIONS_KEY, TOTALS_KEY
from chain.state.records import Account, Registrations
from chain.state.state import StateOverlay, StateReader
from chain.transition.context import BlockContext
from chain.types.operations import REGISTRATION_SALT_BYTES, Register, SignedOperation, compute_operation_id

ARGON2_MEMORY_BYTES = 32 << 20
"""Memory of one try."""
ARGON2_PASSES = 1
"""Passes of one try over its memory: some 20 ms of one core."""


NO_NEWCOMER = "only an account that has done nothing yet is granted anything"
"""Error of a registration of an account that is in use."""


def is_newcomer(account: Account) -> bool:
    """Whether an account may still be granted its first bond: it has done nothing, but may have been sent credit.

    If it had to be empty, a transfer of one micro-credit could keep a newcomer out.
    """
    return replace(account, available=0) == Account()


def process_register(overlay: StateOverlay, context: BlockContext, operation: Register, signer: bytes) -> None:
    """Grant a newcomer its bond. Its proof of work is not checked again if the context says that it was.

    Raises:
        InvalidOperation: nothing is granted, or not to this account, or no more in this epoch, or not for this proof.
    """
    genesis, parameters = context.genesis, context.genesis.parameters
    if not parameters.register_grant:
        raise InvalidOperation("this chain grants nothing to newcomers")
    before = overlay.account(signer)
    if not is_newcomer(before):
        raise InvalidOperation(NO_NEWCOMER)
    count = overlay.registrations.count
    if count >= parameters.register_cap:
        raise InvalidOperation(f"{count} newcomers were registered in this epoch, which is the limit")
    source = overlay.beacon.get_epoch_seed(operation.epoch)
    if source is None:
        raise InvalidOperation(f"epoch {operation.epoch} is neither this one nor the one before")
    challenge = compute_challenge(genesis, source, signer)
    is_proven = compute_operation_id(operation, signer) in context.proven
    if not is_proven and not is_valid_proof_of_work(challenge, operation.salt, parameters.register_difficulty):
        raise InvalidOperation("the proof of work does not hold")
    totals = overlay.totals
    if totals.supply + parameters.register_grant > MAX_INT:
        raise InvalidOperation("there is all the credit already that there can be")
    grant = parameters.register_grant
    overlay.put_account(signer, replace(before, bonded=grant, models=operation.models, grant=grant))
    overlay.put(REGISTRATIONS_KEY, Registrations(count + 1))
    overlay.put(TOTALS_KEY, replace(totals, supply=totals.supply + parameters.register_grant))


def has_valid_proof_of_work(genesis: Genesis, state: StateReader, signed: SignedOperation) -> bool | None:
    """Whether a newcomer's proof holds; None if :func:`process_register` fails before it checks the proof.

    True for any other operation. The result is cached: only the first call is slow. Unchecked proofs are not queued:
    checking one later would block the loop.
    """
    operation = signed.operation
    if not isinstance(operation, Register):
        return True
    source = state.beacon.get_epoch_seed(operation.epoch)
    if source is None or not count_registrations_left(state, genesis) or not is_newcomer(state.account(signed.signer)):
        return None
    challenge = compute_challenge(genesis, source, signed.signer)
    return is_valid_proof_of_work(challenge, operation.salt, genesis.parameters.register_difficulty)


def compute_challenge(genesis: Genesis, source: bytes, public_key: bytes) -> bytes:
    """The challenge that the proof of an account is over, in the epoch whose draws come from ``source``."""
    return hash_bytes("register", genesis.chain_id, source, public_key)


@lru_cache(maxsize=1024)
def is_valid_proof_of_work(challenge: bytes, salt: bytes, difficulty: int) -> bool:
    """Whether ``salt`` earns a grant. Takes as long as one try; the result is cached."""
    return (
        int.from_bytes(argon2id(challenge, salt, ARGON2_MEMORY_BYTES, ARGON2_PASSES), "big") >> (256 - difficulty) == 0
    )


def mine(challenge: bytes, difficulty: int, start: int = 0) -> Iterator[bytes | None]:
    """Try one salt after the other. Yields None for each failed try, and at last a salt that earns a grant."""
    while True:
        salt = start.to_bytes(REGISTRATION_SALT_BYTES, "big")
        if is_valid_proof_of_work(challenge, salt, difficulty):
            yield salt
            return
        yield None
        start += 1


def count_registrations_left(state: StateReader, genesis: Genesis) -> int:
    """How many newcomers may still be registered in this epoch."""
    parameters = genesis.parameters
    return max(0, parameters.register_cap - state.registrations.count) if parameters.register_grant else 0
