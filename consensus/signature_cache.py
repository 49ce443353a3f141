"""Signatures that were found to hold, so that none is checked twice.

A vote is checked when it arrives, and again inside the certificate of the next block, and again in the notarization
that another validator sends. The memory is bounded, and holds nothing about signatures that failed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from chain import crypto
from chain.genesis import Genesis
from chain.state.state import State
from chain.transition.block import Transition, apply_block, check_header, get_signature_checks, verify_signatures
from chain.transition.restart import get_block_epoch
from chain.types.blocks import Block, Header

MAX_SIGNATURES = 16_384


class SignatureCache:
    """The last claims that were verified."""

    def __init__(self, capacity: int = MAX_SIGNATURES) -> None:
        self._capacity = capacity
        self._verified: dict[crypto.SignatureCheck, None] = {}

    def __contains__(self, claim: crypto.SignatureCheck) -> bool:
        return claim in self._verified

    def verify(self, claims: Iterable[crypto.SignatureCheck]) -> bool:
        """As :func:`chain.crypto.verify_all`."""
        for claim in claims:
            if claim in self._verified:
                continue
            if not crypto.verify_all([claim]):
                return False
            self._verified[claim] = None
            if len(self._verified) > self._capacity:
                del self._verified[next(iter(self._verified))]
        return True


def execute_block(
    genesis: Genesis,
    parent: Header,
    state: State,
    block: Block,
    verified: frozenset[bytes],
    is_known: Callable[[crypto.SignatureCheck], bool],
) -> Transition:
    """:func:`chain.transition.block.state_transition`, without the signatures that were checked before.

    ``verified`` are ids of operations in the block whose very signature was checked.

    Raises:
        InvalidBlock: any rule is broken.
    """
    epoch = get_block_epoch(genesis, state, block.body)
    check_header(genesis, epoch, parent, block.header)
    claims = get_signature_checks(genesis, epoch, parent, block, lambda operation: operation.id in verified)
    verify_signatures((field, claim) for field, claim in claims if not is_known(claim))
    return apply_block(genesis, parent, state, block)
