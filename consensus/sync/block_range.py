"""Checks blocks from a peer: a range within one epoch, up to a certificate that makes the last block final. Pure.

Blocks are first taken on the signatures of their leaders alone (:class:`HeaderChain`), up to :data:`MAX_RANGE_BYTES`.
Once a certificate comes, the whole range is executed and every signature checked (:func:`verify_block_range`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from chain import crypto
from chain.exceptions import InvalidBlock, InvalidCertificate
from chain.genesis import Genesis
from chain.state.state import State, StateOverlay
from chain.transition.block import IsVerified, check_finality, check_header, state_transition
from chain.transition.epochs import get_next_epoch
from chain.transition.restart import remove_validators
from chain.types.blocks import Block, Header
from chain.types.votes import Certificate
from consensus.block_tree import ExecutedBlock
from consensus.exceptions import InvalidResponse
from consensus.sync.messages import BlockItem

MAX_RANGE_BYTES = 64 << 20
"""Bytes of blocks taken on trust of their leaders' signatures alone before a certificate must come."""
NO_KNOWN_IDS: Mapping[int, bytes] = MappingProxyType({})
"""No block known in advance by its id."""


class HeaderChain:
    """A chain of blocks of one epoch from ``parent`` on. None of them is final yet.

    Each must come after the one before and carry its leader's signature, so that only validators can make any.
    """

    def __init__(self, genesis: Genesis, parent: Header, state: State) -> None:
        self._genesis = genesis
        self._overlay = StateOverlay(state)
        self._epoch = get_next_epoch(genesis, state)
        self.head = parent
        """The last header so far."""

    def append(self, verify: crypto.Verify, block: Block) -> None:
        """Take the next block; ``verify`` checks its signature.

        Raises:
            InvalidBlock: not one that can come next.
        """
        if block.body.removed:  # the rest of the epoch has the committee that is left
            remove_validators(self._overlay, block.body.removed)
            self._epoch = get_next_epoch(self._genesis, self._overlay)
        check_header(self._genesis, self._epoch, self.head, block.header)
        if not verify([block.signature_check()]):
            raise InvalidBlock("signature", "is not the proposer's")
        self.head = block.header


class BlockRange(HeaderChain):
    """Collects blocks until a certificate makes the last of them final.

    ``known`` has the ids that blocks must have at some heights: those that lead to a checkpoint.
    """

    def __init__(
        self, genesis: Genesis, parent: Header, state: State, known: Mapping[int, bytes] = NO_KNOWN_IDS
    ) -> None:
        super().__init__(genesis, parent, state)
        self._known = known
        self._size = 0
        self.blocks: list[Block] = []

    def add(self, verify: crypto.Verify, item: BlockItem) -> Certificate | None:
        """Take the next block. Returns the certificate once there is one; then :func:`verify_block_range` decides.

        Raises:
            LedgerError: not a block that can come next.
        """
        block = Block.decode(item.block)
        self.append(verify, block)
        if self._known.get(block.height, block.id) != block.id:
            raise InvalidResponse(f"block {block.height} does not lead to the checkpoint")
        self._size += len(item.block) + len(item.certificate or b"")
        if self._size > MAX_RANGE_BYTES:
            raise InvalidResponse(f"no finality certificate within {MAX_RANGE_BYTES} bytes of blocks")
        self.blocks.append(block)
        return None if item.certificate is None else Certificate.decode(item.certificate)


def verify_block_range(
    verify: crypto.Verify,
    genesis: Genesis,
    parent: Header,
    state: State,
    blocks: Sequence[Block],
    certificate: Certificate,
    is_verified: IsVerified | None = None,
) -> list[ExecutedBlock]:
    """Execute ``blocks`` on ``parent`` and check that ``certificate`` makes the last of them final.

    ``verify`` and ``is_verified`` are those of :func:`chain.transition.block.state_transition`.

    Raises:
        InvalidBlock: any rule is broken; then nothing of the range counts.
    """
    overlay = StateOverlay(state)
    for block in blocks:
        remove_validators(overlay, block.body.removed)
    # First: it is cheap, and worthless blocks rarely have one.
    check_finality(genesis, blocks[-1].header, certificate)
    if not verify(certificate.signature_checks(genesis.chain_id, get_next_epoch(genesis, overlay).validators)):
        raise InvalidCertificate("a signature does not hold")
    executed: list[ExecutedBlock] = []
    for block in blocks:
        transition = state_transition(genesis, parent, state, block, is_verified, verify)
        executed.append(ExecutedBlock(block, transition))
        parent, state = block.header, transition.state
    return executed
