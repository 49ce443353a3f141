"""The blocks of an epoch that are not final yet: which are held, which were checked, which must be fetched."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from chain.types.blocks import Block
from chain.types.validators import ValidatorSet
from chain.types.votes import Certificate
from consensus.simplex.messages import Effect, ExecuteBlock, Fetch
from consensus.simplex.validation import FinalizedBlock


class _Status(Enum):
    HELD = auto()
    CHECKING = auto()
    VALID = auto()
    INVALID = auto()


@dataclass(slots=True)
class _PendingBlock:
    block: Block
    status: _Status


class PendingBlocks:
    """The tree of blocks above the last final one. Orders to the engine are appended to ``effects``."""

    def __init__(self, finalized: FinalizedBlock, epoch: int, validators: ValidatorSet, effects: list[Effect]) -> None:
        self.finalized = finalized
        self._epoch, self._validators, self._effects = epoch, validators, effects
        self._held: dict[bytes, _PendingBlock] = {}
        self._requested_blocks: dict[bytes, Fetch] = {}

    def get(self, block_id: bytes) -> Block | None:
        """A block that is held, or None."""
        pending = self._held.get(block_id)
        return None if pending is None else pending.block

    def get_height(self, block_id: bytes) -> int:
        """Height of the final block or of one that is held."""
        return self.finalized.height if block_id == self.finalized.block_id else self._held[block_id].block.height

    def is_requested(self, block_id: bytes) -> bool:
        """Whether the block was asked for and has not come."""
        return block_id in self._requested_blocks

    def add(self, block: Block, is_valid: bool = False) -> None:
        """Keep an authentic block; ``is_valid`` spares one that was built here its check."""
        self._requested_blocks.pop(block.id, None)
        if block.height > self.finalized.height:
            self._held.setdefault(block.id, _PendingBlock(block, _Status.VALID if is_valid else _Status.HELD))

    def request(self, block_id: bytes, certificate: Certificate | None) -> None:
        """Ask for a block, once; those who signed ``certificate`` for it can send it."""
        if block_id not in self._requested_blocks:
            known = certificate is not None and certificate.epoch == self._epoch
            signers = certificate.signers if certificate is not None and known else ()
            order = Fetch(block_id, tuple(self._validators[position].public_key for position in signers))
            self._requested_blocks[block_id] = order
            self._effects.append(order)

    def repeat_requests(self) -> None:
        """Repeat what was asked for in vain."""
        self._effects.extend(self._requested_blocks.values())

    def is_valid(self, block_id: bytes, certificate: Certificate | None) -> bool:
        """Whether a block and all before it were checked; if not, ask for the first thing missing."""
        lowest: _PendingBlock | None = None
        while block_id != self.finalized.block_id:
            pending = self._held.get(block_id)
            if pending is None:
                self.request(block_id, certificate)
                return False
            if pending.status is _Status.VALID:
                break
            if pending.status is not _Status.HELD:
                return False
            lowest, block_id = pending, pending.block.header.parent_id
            certificate = pending.block.body.parent_certificate
            if pending.block.height == self.finalized.height + 1 and block_id != self.finalized.block_id:
                pending.status = _Status.INVALID  # of a branch that lost
                return False
        if lowest is None:
            return True
        if lowest.block.height == self.get_height(block_id) + 1:
            lowest.status = _Status.CHECKING
            self._effects.append(ExecuteBlock(lowest.block))
        else:
            lowest.status = _Status.INVALID
        return False

    def set_result(self, block_id: bytes, is_valid: bool) -> None:
        """Take the verdict on a block being checked."""
        pending = self._held.get(block_id)
        if pending is not None and pending.status is _Status.CHECKING:
            pending.status = _Status.VALID if is_valid else _Status.INVALID

    def retry(self, block_id: bytes) -> None:
        """Check a block again after all: a quorum found it good."""
        pending = self._held.get(block_id)
        if pending is not None and pending.status is _Status.INVALID:
            pending.status = _Status.HELD

    def finalize(self, certificate: Certificate) -> tuple[Block, ...]:
        """Make a held block final; returns it after those ancestors at hand that were not final, oldest first."""
        branch = [self._held[certificate.block_id].block]
        while (parent := self.get(branch[-1].header.parent_id)) is not None:
            branch.append(parent)
        self.finalized = FinalizedBlock(branch[0].id, branch[0].height, certificate)
        self._held = {known: other for known, other in self._held.items() if other.block.height > self.finalized.height}
        self._requested_blocks.clear()  # whatever is still needed is asked for again
        return tuple(reversed(branch))
