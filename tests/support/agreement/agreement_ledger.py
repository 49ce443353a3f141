"""A stand-in for the ledger, and a durable memory: what the agreement simulation runs its validators on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from chain.crypto import KeyPair, hash_bytes
from chain.transition.epochs import Epoch
from chain.types.blocks import NO_REVEAL, VERSION, Block, Body, Header, sign_block
from chain.types.validators import ValidatorSet
from chain.types.votes import Certificate
from consensus.simplex.messages import Build
from consensus.simplex.validation import FinalizedBlock
from tests.support.memory_file import MemoryFile


@dataclass(frozen=True)
class FakeLedger:
    """A chain of empty blocks: epochs of ``epoch_heights``, and whatever committee a test wants for each."""

    seed: int
    committee: Callable[[int], ValidatorSet]
    epoch_heights: int

    @property
    def chain_id(self) -> bytes:
        return hash_bytes("fake chain", self.seed.to_bytes(8, "big"))

    @property
    def genesis(self) -> FinalizedBlock:
        return FinalizedBlock(hash_bytes("fake genesis", self.chain_id), 0, None)

    def get_epoch(self, height: int) -> int:
        """Epoch of the block at ``height`` (from 1)."""
        return (height - 1) // self.epoch_heights

    def get_last_height(self, epoch: int) -> int:
        return (epoch + 1) * self.epoch_heights

    def make_epoch(self, number: int) -> Epoch:
        return Epoch(
            number=number,
            last_height=self.get_last_height(number),
            validators=self.committee(number),
            next_validators=self.committee(number + 1),
            previous_validators=self.committee(number - 1) if number else None,
            beacon=self.get_beacon(number),
        )

    def get_beacon(self, epoch: int) -> bytes:
        return hash_bytes("fake beacon", self.chain_id, epoch.to_bytes(8, "big"))

    def build(self, key: KeyPair, epoch: int, height: int, order: Build, timestamp: int) -> Block:
        """The block that a leader makes; ``timestamp`` tells rival blocks apart."""
        body = Body((), order.parent_certificate, order.nullifications, ())
        header = Header(
            version=VERSION,
            chain_id=self.chain_id,
            epoch=epoch,
            height=height,
            view=order.view,
            parent_id=order.parent_id,
            timestamp=timestamp,
            chain_time=0,
            proposer=key.public_key,
            body_root=body.root,
            state_root=bytes(32),
            history_root=bytes(32),
            validators_hash=self.committee(epoch).hash,
            next_validators_hash=bytes(32),
            beacon_reveal=NO_REVEAL,
        )
        return sign_block(key, header, body)


class Disk:
    """What one validator keeps through a crash: its journal, the evidence of its votes, its final chain."""

    def __init__(self, genesis: FinalizedBlock) -> None:
        self.journal = MemoryFile()
        self.support: list[tuple[int, Block | Certificate]] = []
        self.chain: list[Block] = []
        self.finals: dict[int, Certificate] = {}
        self.final = genesis
        """The last block of the chain, which always carries its own certificate."""
        self._by_id: dict[bytes, Block] = {}

    def find(self, block_id: bytes) -> Block | None:
        return self._by_id.get(block_id)

    def strengthen(self, certificate: Certificate) -> None:
        """Replace the certificate of a final block by one of more signers; what is not on disk yet stays as it is."""
        block = self._by_id.get(certificate.block_id)
        known = None if block is None else self.finals.get(block.height)
        if block is not None and known is not None and known.view == certificate.view:
            assert set(known.signers) < set(certificate.signers)
            self.finals[block.height] = certificate
            if block.id == self.final.block_id:
                self.final = FinalizedBlock(block.id, block.height, certificate)

    def extend(self, blocks: list[Block], certificate: Certificate) -> None:
        """Append a final branch: one atomic batch."""
        for block in blocks:
            assert block.header.parent_id == (self.chain[-1].id if self.chain else self.final.block_id)
            self.chain.append(block)
            self._by_id[block.id] = block
        self.finals[blocks[-1].height] = certificate
        self.final = FinalizedBlock(blocks[-1].id, blocks[-1].height, certificate)
        self.support = [
            (epoch, item)
            for epoch, item in self.support
            if (epoch, _get_view(item)) > (certificate.epoch, certificate.view)
        ]


def _get_view(item: Block | Certificate) -> int:
    return item.header.view if isinstance(item, Block) else item.view
