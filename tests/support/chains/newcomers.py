"""A chain that grants newcomers a first bond, and their registrations."""

from __future__ import annotations

from dataclasses import replace

from chain.crypto import KeyPair
from chain.transition.validators.registration import compute_challenge, mine
from chain.types.operations import Register, SignedOperation
from tests.support.chain_builder import MODEL, PARAMETERS, Chain

GRANT = 700
"""Micro-credits of a grant."""
GRANTING = replace(PARAMETERS, register_grant=GRANT, register_cap=2, register_difficulty=2)
"""Parameters with two grants an epoch, and little work for each."""


def find_salt(chain: Chain, key: KeyPair, epoch: int | None = None) -> bytes:
    """The proof of work of ``key`` for an epoch, by default that of the next block."""
    source = chain.state.beacon.get_epoch_seed(chain.next_epoch if epoch is None else epoch)
    assert source is not None
    challenge = compute_challenge(chain.genesis, source, key.public_key)
    return next(salt for salt in mine(challenge, GRANTING.register_difficulty) if salt is not None)


def register(chain: Chain, key: KeyPair, **changes: object) -> SignedOperation:
    """The registration of ``key`` in the next block, with ``changes`` to its fields."""
    operation = Register(chain.next_epoch, find_salt(chain, key), (MODEL,))
    return chain.sign(key, replace(operation, **changes))  # type: ignore[arg-type]
